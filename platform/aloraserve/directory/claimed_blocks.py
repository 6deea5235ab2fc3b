"""Which holders are about to have which blocks: the claims that one process knows of.

A claim is known by its marks: the keys of every 32nd block and of the last few. Keys are chained, so a prompt that has
a mark has all blocks before it, whatever their number. Where a prompt leaves a claim's chain before its last blocks,
the overlap is rounded down to the mark before. Beyond ``MAX_RUN_MARKS`` runs only every second, fourth, ... run is
marked, so that a claim's size is bounded.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from aloraserve.blocks import BlockKey
from aloraserve.directory.base import RUN_BLOCKS

HolderT = TypeVar("HolderT", bound=Hashable)
MARK_BYTES = 8
MAX_RUN_MARKS = 256
LAST_MARKS = 8
"""Blocks at a claim's end that are marked each: that is where the calls of one conversation part."""
MAX_CLAIMS = 16_384
RENEWED_S = 0.5


def marks_of(keys: Sequence[BlockKey]) -> tuple[bytes, ...]:
    """Return a claim's marks: at most ``MAX_RUN_MARKS`` and ``LAST_MARKS``, in the chain's order."""
    stride = RUN_BLOCKS
    while len(keys) // stride > MAX_RUN_MARKS:
        stride *= 2
    last = max(0, len(keys) - LAST_MARKS)
    blocks = [*range(stride - 1, last, stride), *range(last, len(keys))]
    return tuple(keys[block][:MARK_BYTES] for block in blocks)


@dataclass(slots=True)
class _Claim(Generic[HolderT]):
    holder: HolderT
    marks: tuple[bytes, ...]
    ends_at: float


class ClaimedBlocks(Generic[HolderT]):
    """Claims of blocks by their names. Of more than ``MAX_CLAIMS`` the one that ends first is forgotten."""

    def __init__(self) -> None:
        self._claims: dict[Hashable, _Claim[HolderT]] = {}
        self._ends: list[tuple[float, int, Hashable]] = []
        self._added = 0
        # Mostly one holder: a dict each would be most of the memory.
        self._marked: dict[bytes, HolderT | dict[HolderT, int]] = {}

    def __len__(self) -> int:
        """How many claims are known."""
        return len(self._claims)

    def add(self, name: Hashable, holder: HolderT, marks: tuple[bytes, ...], ends_at: float) -> None:
        """Note a claim, once. One of the same name is replaced if that would end ``RENEWED_S`` before."""
        known = self._claims.get(name)
        if known is not None and known.ends_at > ends_at - RENEWED_S:
            return
        self.remove(name)
        self._claims[name] = _Claim(holder, marks, ends_at)
        self._added += 1
        heapq.heappush(self._ends, (ends_at, self._added, name))
        for mark in marks:
            self._count(mark, holder, 1)
        while len(self._claims) > MAX_CLAIMS:
            self._drop_first()

    def remove(self, name: Hashable) -> None:
        """Forget a claim, if it is known."""
        claim = self._claims.pop(name, None)
        if claim is not None:
            for mark in claim.marks:
                self._count(mark, claim.holder, -1)

    def expire(self, now: float) -> None:
        """Forget the claims that have ended; each costs once what adding it did."""
        while self._ends and self._ends[0][0] <= now:
            self._drop_first()

    def overlaps(self, keys: Sequence[BlockKey]) -> Mapping[HolderT, int]:
        """Return how many leading blocks of a prompt each holder is about to have, at least."""
        found: dict[HolderT, int] = {}
        if not self._marked:
            return found
        for end in range(len(keys) // RUN_BLOCKS * RUN_BLOCKS, 0, -RUN_BLOCKS):
            holders = self._holders(keys[end - 1])
            # Whoever has a mark has those before it: as many holders are the same ones.
            if len(holders) != len(found):
                found.update((holder, end) for holder in holders if holder not in found)
        for start in {0, *found.values()}:
            for block in range(start, min(start + RUN_BLOCKS, len(keys))):
                for holder in self._holders(keys[block]):
                    if found.get(holder, 0) <= block:
                        found[holder] = block + 1
        return found

    def _drop_first(self) -> None:
        ends_at, _, name = heapq.heappop(self._ends)
        claim = self._claims.get(name)
        # One that was made again ends later.
        if claim is not None and claim.ends_at <= ends_at:
            self.remove(name)

    def _holders(self, key: BlockKey) -> Sequence[HolderT] | Mapping[HolderT, int]:
        marked = self._marked.get(key[:MARK_BYTES])
        if marked is None:
            return ()
        return cast(Mapping[HolderT, int], marked) if isinstance(marked, dict) else (marked,)

    def _count(self, mark: bytes, holder: HolderT, by: int) -> None:
        marked = self._marked.get(mark)
        counts = {} if marked is None else marked if isinstance(marked, dict) else {marked: 1}
        counts[holder] = counts.get(holder, 0) + by
        if not counts[holder]:
            del counts[holder]
        if not counts:
            del self._marked[mark]
        elif len(counts) == 1 and counts.get(holder) == 1:
            self._marked[mark] = holder
        else:
            self._marked[mark] = counts
