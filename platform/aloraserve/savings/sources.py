"""Adapters that first computed the blocks which a replica holds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from aloraserve.blocks import BlockKey
from aloraserve.savings.base import CachedBySource

BASE = ""


class FirstStored:
    """Adapter names by block key, for as many blocks as the engine has.

    An engine's events do not show it: what an aLoRA call stores before its activation point is the base model's own
    block, and is reported as that. A call's prompt does: what was not cached, it computed.

    Args:
        capacity_blocks: the most remembered; the one that was computed longest ago goes first.
    """

    def __init__(self, capacity_blocks: int) -> None:
        self._capacity = max(1, capacity_blocks)
        self._adapters: OrderedDict[BlockKey, str] = OrderedDict()

    def __len__(self) -> int:
        """How many blocks are remembered."""
        return len(self._adapters)

    def computed(self, keys: Sequence[BlockKey], adapter: str | None) -> None:
        """Note blocks that a call computed."""
        for key in keys:
            self._adapters.pop(key, None)
            self._adapters[key] = adapter or BASE
        while len(self._adapters) > self._capacity:
            self._adapters.popitem(last=False)

    def of(
        self, keys: Sequence[BlockKey], adapter: str | None, block_tokens: int, cached_tokens: int
    ) -> CachedBySource:
        """Return whose the cached tokens of a call are.

        Args:
            keys: of the prompt's blocks.
            adapter: of the call.
            block_tokens: tokens per block.
            cached_tokens: the leading prompt tokens that were not computed.
        """
        mine = adapter or BASE
        tokens = {"own": 0, "base": 0, "sibling": 0, "unknown": 0}
        left = cached_tokens
        for key in keys:
            if left <= 0:
                break
            stored_by = self._adapters.get(key)
            tokens[_source(stored_by, mine)] += min(block_tokens, left)
            left -= block_tokens
        tokens["unknown"] += max(left, 0)
        return CachedBySource(**tokens)


def _source(stored_by: str | None, mine: str) -> str:
    if stored_by is None:
        return "unknown"
    if stored_by == mine:
        return "own"
    return "base" if stored_by == BASE else "sibling"
