"""``GET /v1/models`` and ``GET /v1/models/{id}``: what ``model`` may name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self

from aloraserve.adapters import ServedName
from aloraserve.wire.responses import ResponsePart

ModelKind = Literal["base", "lora", "alora"]


class ModelInvocation(ResponsePart):
    """What makes an aLoRA act.

    Args:
        tokens: ids of the invocation.
        text: that they come from, empty if its files do not say.
        mode: how a prompt gets it, None if the chat template decides.
    """

    tokens: tuple[int, ...]
    text: str = ""
    mode: str | None = None


class ModelEntry(ResponsePart):
    """One servable name.

    ``parent``, ``kind``, ``root``, ``invocation``, ``untrained`` and ``dtype`` extend OpenAI's entry: the base model of
    an adapter (None for the base itself), what it is, the name that an alias stands for (its own name, if it is none),
    what makes an aLoRA act (None for the others), whether its weights are random, and what engines compute in.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "aloraserve"
    root: str
    parent: str | None = None
    kind: ModelKind = "base"
    invocation: ModelInvocation | None = None
    untrained: bool = False
    dtype: str | None = None

    @classmethod
    def of(cls, served: ServedName, base: str, created: int, dtype: str | None = None) -> Self:
        """Return the entry of an adapter's name; arguments are those of :meth:`ModelList.of`."""
        version = served.version
        invocation = None
        if version.invocation_ids:
            mode = None if version.invocation_mode is None else version.invocation_mode.value
            invocation = ModelInvocation(tokens=version.invocation_ids, text=version.invocation_text, mode=mode)
        return cls(
            id=served.name,
            created=created,
            root=served.root,
            parent=base,
            kind=version.kind,
            invocation=invocation,
            untrained=version.untrained,
            dtype=dtype,
        )


class ModelList(ResponsePart):
    """Every name that the caller may use."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]

    @classmethod
    def of(cls, base: str, adapters: Iterable[ServedName], created: int, dtype: str | None = None) -> Self:
        """Return the list of the base model and its adapters.

        Args:
            base: its served name.
            adapters: names that the caller may use.
            created: in seconds since 1970.
            dtype: of the base model's weights and of the KV cache.
        """
        return cls(
            data=[
                ModelEntry(id=base, created=created, root=base, dtype=dtype),
                *(ModelEntry.of(served, base, created, dtype) for served in adapters),
            ]
        )
