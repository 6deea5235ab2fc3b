"""Block keys in the order in which an engine's cache would evict them, with a value each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, TypeVar

from aloraserve.blocks import BlockKey

Value = TypeVar("Value")


class BlockLru(Generic[Value]):
    """Whole chains of blocks, the least recently used evicted first and of a chain its last block first.

    That is the order of vLLM's free queue (``v1/core/kv_cache_manager.py``, ``free``): a request's blocks are freed
    last block first, so that a chain loses its tail before its head. Hence what is here is prefix-closed: a block's
    parent is always used at least as recently as the block. Blocks of running requests may be evicted here, which
    vLLM never does; that takes a whole cache of other blocks while one request runs.

    Args:
        capacity_blocks: how many keys are kept, at least 1.
    """

    def __init__(self, capacity_blocks: int) -> None:
        if capacity_blocks < 1:
            raise ValueError(f"capacity_blocks is {capacity_blocks}; at least 1 is needed")
        self.capacity_blocks = capacity_blocks
        self._values: OrderedDict[BlockKey, Value] = OrderedDict()

    def __len__(self) -> int:
        """How many keys are kept."""
        return len(self._values)

    def get(self, key: BlockKey) -> Value | None:
        """Return the key's value, None if it is not kept. Does not count as a use."""
        return self._values.get(key)

    def overlap(self, keys: Sequence[BlockKey]) -> int:
        """Return how many leading keys are kept."""
        values = self._values
        return next((index for index, key in enumerate(keys) if key not in values), len(keys))

    def touch(self, keys: Sequence[BlockKey], value: Value) -> None:
        """Use a chain: keys that are not kept yet come to be, with ``value``; the others keep theirs.

        Args:
            keys: from the chain's start.
            value: of new keys.
        """
        values = self._values
        for key in reversed(keys):
            if key in values:
                values.move_to_end(key)
            else:
                values[key] = value
        while len(values) > self.capacity_blocks:
            values.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()
