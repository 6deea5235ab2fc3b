"""A router's index of KV events, by its own keys: with the adapter in every key, or without any adapter.

On this platform's engines the events of blocks before the activation point name no adapter. A router whose hashing
knows LoRA still looks for them under the adapter's name (*salted*); one whose hashing does not finds the conversation
wherever anybody computed it, a plain LoRA's too (*blind*).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from aloraserve.blocks import BlockKey
from aloraserve.simulation.base import SimulatedCall, VisibleFleet


class Holdings(Protocol):
    """Leading blocks that each replica holds for a call, as far as a router's keys distinguish them."""

    def keys(self, call: SimulatedCall) -> list[BlockKey]:
        """Return the keys that the router gives to the prompt's blocks."""
        ...

    def depths(self, call: SimulatedCall, replicas: Sequence[int]) -> list[int]:
        """Return for each of ``replicas`` how many leading blocks of the call it holds."""
        ...

    def observe(self, replica: int, stored: Sequence[BlockKey], removed: Sequence[BlockKey]) -> None:
        """Take in exact keys that came to be cached and that were evicted."""
        ...

    def sent(self, call: SimulatedCall) -> None:
        """Learn that a call is about to be sent: events of its blocks may come."""
        ...

    def prefilled(self, call: SimulatedCall, replica: int, now_s: float) -> None:
        """Learn that a call's prompt is computed there."""
        ...

    def answered(self, call: SimulatedCall, replica: int) -> None:
        """Learn that a call's answer is computed there, so that blocks after its prompt are."""
        ...

    def ended(self, call: SimulatedCall) -> None:
        """Learn that a call is over, with an answer or without."""
        ...

    def lost(self, replica: int) -> None:
        """Forget all that the replica held."""
        ...


MakeHoldings = Callable[[VisibleFleet], Holdings]
