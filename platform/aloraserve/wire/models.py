"""``GET /v1/models``: what ``model`` may name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self

from aloraserve.adapters import ServedName
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

    @classmethod
    def of(cls, base: str, adapters: Iterable[ServedName], created: int) -> Self:
        """Return the list of the base model and its adapters.

        Args:
            base: its served name.
            adapters: names that the caller may use.
            created: in seconds since 1970.
        """
        entries = [ModelEntry(id=base, created=created, root=base)]
        for served in adapters:
            entries.append(
                ModelEntry(id=served.name, created=created, root=served.root, parent=base, kind=served.version.kind)
            )
        return cls(data=entries)
