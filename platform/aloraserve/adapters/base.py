"""What an adapter is to the platform, and the contract of a catalog of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

AdapterKind = Literal["lora", "alora"]


@dataclass(frozen=True, slots=True)
class Adapter:
    """A validated PEFT adapter.

    Args:
        name: what ``model`` calls it.
        kind: "alora" if it has an invocation, else "lora".
        path: its folder.
        rank: LoRA rank.
        target_modules: names of the linears it changes, sorted.
        invocation_ids: an aLoRA's invocation tokens; empty for a plain LoRA.
        invocation_text: those tokens as text, None for a plain LoRA or without a tokenizer.
        digest: hex SHA-256 of its config and weights: equal digests mean equal adapters.
        untrained: whether its weights are random, for trying the platform out.
    """

    name: str
    kind: AdapterKind
    path: Path
    rank: int
    target_modules: tuple[str, ...]
    invocation_ids: tuple[int, ...]
    invocation_text: str | None
    digest: str
    untrained: bool = False


@dataclass(frozen=True, slots=True)
class RefusedAdapter:
    """An adapter that is not served, and why."""

    name: str
    reason: str


class AdapterCatalog(Protocol):
    """Which adapters a fleet serves.

    A catalog is read when the platform starts and does not change: every call answers the same until it is
    built anew, from any thread, and none of them does I/O. One bad adapter never hides a good one: it is in
    :meth:`refused` with the reason, and no name is in both.
    """

    def get(self, name: str) -> Adapter | None:
        """Return the adapter called ``name``, or None if none is served under it."""

    def all(self) -> Sequence[Adapter]:
        """Return every served adapter, sorted by name."""

    def refused(self) -> Sequence[RefusedAdapter]:
        """Return every adapter that is not served, sorted by name."""
