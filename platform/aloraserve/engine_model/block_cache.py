"""One engine's KV cache as vLLM manages it: whole blocks, shared by key, least recently used ones evicted.

The rules are those of vLLM's ``v1/core/kv_cache_manager.py`` and ``block_pool.py``: a prompt reuses its leading cached
blocks; blocks of running requests are never evicted; a request's blocks are freed last block first, so that a chain
loses its tail before its head. A simplification: two requests that compute one block share it.

Blocks of answers are counted together while these grow, and told apart when one of them leaves.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import NamedTuple

from aloraserve.blocks.keys import BlockKey


class Allocation(NamedTuple):
    """Changes by starting a request, or by storing its answer.

    Args:
        stored: keys that came to be cached, each after its parent.
        evicted: keys that were cached and are no more, in the order of eviction: none before its descendants.
    """

    stored: list[BlockKey]
    evicted: list[BlockKey]


class _Request:
    __slots__ = ("keys", "unkeyed")

    def __init__(self, keys: list[BlockKey], unkeyed: int) -> None:
        self.keys = keys
        self.unkeyed = unkeyed


class BlockCache:
    """Counted references to keyed blocks, and room for blocks that have no key yet.

    Invariants: cached keys are prefix-closed as long as every caller's chains are; blocks in use and blocks cached
    together never exceed the capacity.

    Args:
        capacity_blocks: at least 1.
    """

    def __init__(self, capacity_blocks: int) -> None:
        if capacity_blocks < 1:
            raise ValueError(f"capacity_blocks is {capacity_blocks}; at least 1 is needed")
        self.capacity_blocks = capacity_blocks
        self._references: dict[BlockKey, int] = {}
        self._idle: OrderedDict[BlockKey, None] = OrderedDict()
        self._unkeyed = 0
        self._requests: dict[str | int, _Request] = {}

    def __len__(self) -> int:
        """How many keys are cached."""
        return len(self._references) + len(self._idle)

    def __contains__(self, key: BlockKey) -> bool:
        return key in self._references or key in self._idle

    def keys(self) -> list[BlockKey]:
        """Return all keys that are cached."""
        return [*self._references, *self._idle]

    @property
    def used_blocks(self) -> int:
        """Blocks of running requests, a shared one counted once."""
        return len(self._references) + self._unkeyed

    @property
    def free_blocks(self) -> int:
        """Blocks that no running request uses; cached ones among them are evicted when they are needed."""
        return self.capacity_blocks - self.used_blocks

    @property
    def usage(self) -> float:
        """Share of the capacity that running requests use, 0 to 1."""
        return self.used_blocks / self.capacity_blocks

    def match(self, keys: Sequence[BlockKey]) -> int:
        """Return how many leading keys are cached."""
        references, idle = self._references, self._idle
        for index, key in enumerate(keys):
            if key not in references and key not in idle:
                return index
        return len(keys)

    def allocate(self, request_id: str | int, keys: Sequence[BlockKey], total_blocks: int) -> Allocation | None:
        """Give a request its blocks: the cached ones among ``keys``, and room for the rest.

        Args:
            request_id: not running yet.
            keys: of the prompt's whole blocks, a chain.
            total_blocks: of what it has; at least ``len(keys)``.

        Returns:
            What changed, or None, and nothing did, if running requests leave too little room.

        Raises:
            ValueError: the request runs already, or ``total_blocks`` is too small.
        """
        if request_id in self._requests:
            raise ValueError(f"request {request_id!r} runs already")
        unkeyed = total_blocks - len(keys)
        if unkeyed < 0:
            raise ValueError(f"total_blocks is {total_blocks}; the {len(keys)} keys need as many")
        references = self._references
        new = sum(1 for key in keys if key not in references)
        if self.used_blocks + new + unkeyed > self.capacity_blocks:
            return None
        stored = self._take(keys)
        self._unkeyed += unkeyed
        self._requests[request_id] = _Request(list(keys), unkeyed)
        return Allocation(stored, self._evict())

    def grow(self, blocks: int) -> list[BlockKey]:
        """Give running answers blocks, or take some back that they did not come to use.

        Args:
            blocks: how many; at most :attr:`free_blocks`, negative to take back.

        Returns:
            The keys that were evicted for them, none before its descendants.
        """
        self._unkeyed += blocks
        return self._evict()

    def settle(self, request_id: str | int, total_blocks: int) -> None:
        """Say how many blocks a request has of all that :meth:`grow` gave, before it leaves.

        Raises:
            KeyError: the request does not run.
        """
        request = self._requests[request_id]
        request.unkeyed = max(total_blocks - len(request.keys), 0)

    def store(self, request_id: str | int, keys: Sequence[BlockKey]) -> Allocation:
        """Name blocks of a running request that its answer filled; keys beyond its room are left out.

        Raises:
            KeyError: the request does not run.
        """
        request = self._requests[request_id]
        keys = keys[: request.unkeyed]
        request.unkeyed -= len(keys)
        self._unkeyed -= len(keys)
        stored = self._take(keys)
        request.keys.extend(keys)
        return Allocation(stored, self._evict())

    def release(self, request_id: str | int, drop: Collection[BlockKey] = ()) -> list[BlockKey]:
        """End a request: its keyed blocks stay cached until their room is needed, the others are free at once.

        Args:
            request_id: running.
            drop: keys that do not stay, unless another request has them; with a key all that follow it.

        Returns:
            The keys that were dropped, none before its descendants.

        Raises:
            KeyError: the request does not run.
        """
        request = self._requests.pop(request_id)
        self._unkeyed -= request.unkeyed
        references, idle = self._references, self._idle
        dropped: list[BlockKey] = []
        for key in reversed(request.keys):
            count = references[key]
            if count > 1:
                references[key] = count - 1
                continue
            del references[key]
            if key in drop:
                dropped.append(key)
            else:
                idle[key] = None
        return dropped

    def clear(self) -> list[BlockKey]:
        """Drop the cached blocks that no running request uses, and return their keys.

        vLLM's ``reset_prefix_cache`` refuses while requests run; here those keep what they have.
        """
        dropped = list(self._idle)
        self._idle.clear()
        return dropped

    def _take(self, keys: Sequence[BlockKey]) -> list[BlockKey]:
        """Reference each key and return those that were not cached."""
        references, idle = self._references, self._idle
        stored: list[BlockKey] = []
        for key in keys:
            count = references.get(key)
            if count is not None:
                references[key] = count + 1
                continue
            references[key] = 1
            if key in idle:
                del idle[key]
            else:
                stored.append(key)
        return stored

    def _evict(self) -> list[BlockKey]:
        excess = len(self._references) + self._unkeyed + len(self._idle) - self.capacity_blocks
        idle = self._idle
        return [idle.popitem(last=False)[0] for _ in range(excess)]
