"""``GET /v1/models``: what ``model`` may name."""

from __future__ import annotations

from typing import Literal

from aloraserve.wire.responses import ResponsePart

ModelKind = Literal["base", "lora", "alora"]


class ModelEntry(ResponsePart):
    """One servable name.

    ``parent``, ``kind`` and ``root`` extend OpenAI's entry: the base model of an adapter (None for the base
    itself), what it is, and the name that an alias stands for (its own name, if it is none).
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "aloraserve"
    root: str
    parent: str | None = None
    kind: ModelKind = "base"


class ModelList(ResponsePart):
    """Every name that the caller may use."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]
