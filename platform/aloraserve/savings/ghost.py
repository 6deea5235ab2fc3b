"""Content of a cache keyed by adapter on this replica: the counterfactual's overlap."""

from __future__ import annotations

from collections.abc import Sequence

from aloraserve.blocks import BlockKey
from aloraserve.engine_model.block_cache import BlockCache


class Ghost:
    """The keys of an adapter-keyed cache of the engine's size and order of eviction, touched by every call.

    A call that finds no room beside those that run leaves no trace: an engine would have made it wait.

    Args:
        capacity_blocks: of the engine's KV cache.
    """

    def __init__(self, capacity_blocks: int) -> None:
        self._cache = BlockCache(max(1, capacity_blocks))

    def __len__(self) -> int:
        """How many blocks it holds."""
        return len(self._cache)

    def overlap(self, keys: Sequence[BlockKey]) -> int:
        """Return how many leading blocks of an adapter-keyed chain it holds."""
        return self._cache.match(keys)

    def begin(self, request_id: str, keys: Sequence[BlockKey]) -> bool:
        """Have the chain of a prompt that is computed now; return whether there was room."""
        return self._cache.allocate(request_id, keys, len(keys)) is not None

    def end(self, request_id: str) -> None:
        """Let the blocks of a call that began be evicted from now on."""
        self._cache.release(request_id)

    def touch(self, request_id: str, keys: Sequence[BlockKey]) -> None:
        """Have the chain of a prompt with its answer, as the call ends."""
        if self.begin(request_id, keys):
            self.end(request_id)

    def clear(self) -> None:
        """Drop the blocks of calls that ended."""
        self._cache.clear()
