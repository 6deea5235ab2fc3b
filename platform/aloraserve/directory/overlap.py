"""How far each holder has a prompt's blocks, reading as few of them as prefix closure allows.

Holdings are prefix-closed: a holder that has the last block of a run has the run, and those before it. So the run in
which it stops is found by bisection along the runs' last blocks, and the block by bisection inside that run: O(log n)
reads per holder, however long the prompt is, and fewer where holders stop together. The in-memory directory uses the
walk as it is; the Redis one has the same in Lua.

Where holdings are not prefix-closed for a moment (a change is on its way, a node was evicted), a walk may stop early,
or take as held what lies before a block that is: what the holder had before the change.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from aloraserve.blocks import BlockKey
from aloraserve.directory.base import RUN_BLOCKS

HolderT = TypeVar("HolderT", bound=Hashable)
FAST, SLOW = 0, 1
"""How a holder has a block: the less the better. A holder's ranks along a chain never fall."""
_ABSENT = SLOW + 1
_Search = tuple[int, int, list[HolderT], Mapping[HolderT, int] | None, int]
"""Places between which holders stop, the holders, the ranks at the place before, and the next stride, 0 for halves."""


@dataclass(slots=True)
class Overlap:
    """Leading blocks that a holder has: in the fast tier, and in any."""

    fast: int
    held: int


@dataclass(slots=True)
class OverlapWalk(Generic[HolderT]):
    """One walk along a prompt.

    Args:
        ranks_at: given a block's run start and index, returns how each holder has it.
    """

    ranks_at: Callable[[int, int], Mapping[HolderT, int]]
    _found: dict[HolderT, Overlap] = field(default_factory=dict)
    _levels: dict[HolderT, int] = field(default_factory=dict)

    def run(self, keys: Sequence[BlockKey]) -> dict[HolderT, Overlap]:
        """Return the overlap of each holder that has the first block."""
        count = len(keys)
        if not count:
            return {}
        first = self.ranks_at(0, 0)
        self._levels = dict(first)
        self._found = {holder: Overlap(0, 0) for holder in first}
        going: dict[int, list[HolderT]] = {0: list(first)}
        while going:
            going = self._go_on(going, count)
        return self._found

    def _go_on(self, going: Mapping[int, list[HolderT]], count: int) -> dict[int, list[HolderT]]:
        """Follow each holder on its level to where it stops; return those that go on from there on a higher one.

        Args:
            going: holders by the first run that they may lack.
            count: the prompt's blocks.
        """
        runs = -(-count // RUN_BLOCKS)

        def at_end(run: int) -> Mapping[HolderT, int]:
            start = run * RUN_BLOCKS
            return self.ranks_at(start, min(start + RUN_BLOCKS, count) - 1)

        stopped: dict[int, list[HolderT]] = {}
        for first_run, holders in going.items():
            for run, group in self._first_misses(first_run, runs, holders, at_end):
                stopped.setdefault(run, []).extend(group)
        self._end(stopped.pop(runs, ()), _ABSENT, count)
        further: dict[int, list[HolderT]] = {}
        for run, group in stopped.items():
            further[run] = list(self._stop_inside(run, group, count))
        return {run: group for run, group in further.items() if group}

    def _stop_inside(self, run: int, holders: Sequence[HolderT], count: int) -> Iterable[HolderT]:
        """Note at which block of a run the holders stop; yield those that have that block on a higher level."""
        start = run * RUN_BLOCKS
        last = min(start + RUN_BLOCKS, count) - 1
        for block, group in self._first_misses(start, last, holders, lambda block: self.ranks_at(start, block)):
            ranks = self.ranks_at(start, block)
            for holder in group:
                rank = ranks.get(holder, _ABSENT)
                self._end([holder], rank, block)
                if rank < _ABSENT:
                    self._levels[holder] = rank
                    yield holder

    def _first_misses(
        self, low: int, high: int, holders: Sequence[HolderT], ranks_at: Callable[[int], Mapping[HolderT, int]]
    ) -> Iterable[tuple[int, list[HolderT]]]:
        """Yield holders with the first place from ``low`` on that they lack on their level, ``high`` if none is.

        In growing strides first, as many stop early, then by halves.
        """
        searches: list[_Search[HolderT]] = [(low, high, list(holders), None, 1)]
        while searches:
            low, high, group, known, stride = searches.pop()
            if low == high:
                yield low, group
                continue
            middle = min(low + stride, high) - 1 if stride else (low + high) // 2
            ranks = ranks_at(middle)
            having = group if ranks is known else [holder for holder in group if self._has(ranks, holder)]
            if having:
                searches.append((middle + 1, high, having, ranks, 2 * stride))
            if len(having) < len(group):
                lacking = [holder for holder in group if not self._has(ranks, holder)]
                searches.append((low, middle, lacking, known, 0))

    def _has(self, ranks: Mapping[HolderT, int], holder: HolderT) -> bool:
        return ranks.get(holder, _ABSENT) <= self._levels[holder]

    def _end(self, holders: Iterable[HolderT], rank: int, block: int) -> None:
        """Note that from ``block`` on the holders have only what is of ``rank`` or worse."""
        for holder in holders:
            found = self._found[holder]
            if self._levels[holder] == FAST:
                found.fast = block
            if rank == _ABSENT:
                found.held = block
