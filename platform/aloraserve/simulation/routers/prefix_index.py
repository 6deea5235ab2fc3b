"""A router's memory of the prompts that it sent: which replicas were sent which blocks, in bounded memory."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence

from aloraserve.blocks import BlockKey
from aloraserve.simulation.base import VisibleFleet

CAPACITIES = 3
MAX_TREE_BLOCKS = 4_194_304


def tree_blocks(fleet: VisibleFleet) -> int:
    """Return the bound of a tree whose original has none, or one that no run reaches.

    It is three times what the fleet's KV caches hold: what was sent before that is in no cache any more. Large fleets
    get ``MAX_TREE_BLOCKS``, which is about half a gigabyte.
    """
    capacity = sum(view.capacity_blocks for view in fleet.replicas)
    return max(2, min(CAPACITIES * capacity, MAX_TREE_BLOCKS))


def leading_blocks(keys: Sequence[BlockKey], held: Collection[BlockKey]) -> int:
    """Return how many leading keys of a chain are in ``held``, by bisection.

    ``held`` is prefix-closed for this chain: it has no key without those before it.
    """
    if not keys or keys[0] not in held:
        return 0
    return bisect_left(keys, True, 1, key=lambda key: key not in held)


class PrefixIndex:
    """Replicas by block, as bit masks; the least recently added blocks are forgotten first.

    Memory is kept in two generations: a block that is added again moves to the young one; when the young one has half
    of ``max_blocks``, or is ``max_age_s`` old, it becomes the old one and what the old one had is forgotten. So a block
    lives through at least half the bound's worth of others, and one to two ages. A tree that evicts its least recently
    used leaf would keep the order exactly and cost a step for each block of a prompt; this costs a few bisections.

    Invariants: a replica's blocks are prefix-closed, as each prompt is added from its first block on, so masks only
    lose bits along a chain; there are at most ``max_blocks`` entries.

    Args:
        replicas: how many.
        max_blocks: at least 2.
        max_age_s: in the caller's seconds.
    """

    def __init__(self, replicas: int, max_blocks: int, *, max_age_s: float = math.inf) -> None:
        if max_blocks < 2:
            raise ValueError(f"max_blocks is {max_blocks}; at least 2 are needed")
        self._young: dict[BlockKey, int] = {}
        self._old: dict[BlockKey, int] = {}
        self._half = max_blocks // 2
        self._max_age_s = max_age_s
        self._young_since_s = 0.0
        self._young_sizes = [0] * replicas
        self.sizes = [0] * replicas
        """How many blocks each replica was sent and the index remembers."""

    def __len__(self) -> int:
        """Entries, a block in both generations counted twice."""
        return len(self._young) + len(self._old)

    def depths(self, keys: Sequence[BlockKey], replicas: Sequence[int], now_s: float = 0.0) -> list[int]:
        """Return for each of ``replicas`` how many leading blocks of the chain it was sent."""
        self._age(now_s)
        stretches = self._stretches(keys)
        if not stretches:
            return [0] * len(replicas)
        return [next((end for end, mask in stretches if mask >> replica & 1), 0) for replica in replicas]

    def add(self, replica: int, keys: Sequence[BlockKey], now_s: float = 0.0) -> None:
        """Remember that the replica was sent a prompt; blocks of it beyond half the bound are left out."""
        self._age(now_s)
        keys = keys[: self._half]
        bit = 1 << replica
        mine = _leading(keys, self._young, bit)
        anyones = mine + leading_blocks(keys[mine:], self._young)
        if len(self._young) + len(keys) - anyones > self._half:
            self._rotate(now_s)
            mine = anyones = 0
        known = max(mine, _leading(keys, self._old, bit))
        young = self._young
        for key in keys[mine:anyones]:
            young[key] |= bit
        young.update(dict.fromkeys(keys[anyones:], bit))
        self._young_sizes[replica] += len(keys) - mine
        self.sizes[replica] += len(keys) - known

    def drop(self, replica: int) -> None:
        """Forget all that the replica was sent; takes a step for each block remembered."""
        self._young = _without(self._young, 1 << replica)
        self._old = _without(self._old, 1 << replica)
        self.sizes[replica] = self._young_sizes[replica] = 0

    def _stretches(self, keys: Sequence[BlockKey]) -> list[tuple[int, int]]:
        """Return where each stretch of blocks with one mask ends, and the mask; the longest prefix first."""
        stretches: list[tuple[int, int]] = []
        end = 0
        while end < len(keys):
            mask = self._young.get(keys[end], 0) | self._old.get(keys[end], 0)
            if not mask:
                break
            end = bisect_left(keys, True, end + 1, key=self._differs_from(mask))
            stretches.append((end, mask))
        return stretches[::-1]

    def _differs_from(self, mask: int) -> Callable[[BlockKey], bool]:
        young, old = self._young, self._old
        return lambda key: young.get(key, 0) | old.get(key, 0) != mask

    def _age(self, now_s: float) -> None:
        if now_s - self._young_since_s < self._max_age_s:
            return
        if now_s - self._young_since_s >= 2 * self._max_age_s:
            self._rotate(now_s)
        self._rotate(now_s)

    def _rotate(self, now_s: float) -> None:
        self._old, self._young = self._young, {}
        self.sizes, self._young_sizes = self._young_sizes, [0] * len(self.sizes)
        self._young_since_s = now_s


def _leading(keys: Sequence[BlockKey], masks: Mapping[BlockKey, int], bit: int) -> int:
    return bisect_left(keys, True, key=lambda key: not masks.get(key, 0) & bit)


def _without(masks: Mapping[BlockKey, int], bit: int) -> dict[BlockKey, int]:
    return {key: mask & ~bit for key, mask in masks.items() if mask & ~bit}
