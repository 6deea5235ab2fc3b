"""How far each holder has a prompt's blocks, reading as few of them as prefix closure allows.

The in-memory directory uses it as it is; the Redis one has the same walk in Lua.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from aloraserve.blocks import BlockKey
from aloraserve.directory.base import RUN_BLOCKS

HolderT = TypeVar("HolderT", bound=Hashable)
FAST, SLOW = 0, 1
"""How a holder has a block: the less the better. A holder's ranks along a chain never fall."""


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
    _going: dict[HolderT, int] = field(default_factory=dict)
    _last: Mapping[HolderT, int] | None = None

    def run(self, keys: Sequence[BlockKey]) -> dict[HolderT, Overlap]:
        """Return the overlap of each holder that has the first block."""
        count = len(keys)
        if not count:
            return {}
        self._going = dict.fromkeys(self.ranks_at(0, 0), FAST)
        for start in range(0, count, RUN_BLOCKS):
            if not self._going:
                break
            stop = min(start + RUN_BLOCKS, count)
            if not self._unchanged(self.ranks_at(start, stop - 1)):
                self._step_through(start, stop)
        for holder, level in list(self._going.items()):
            self._end(holder, level, SLOW, count)
        return self._found

    def _unchanged(self, ranks: Mapping[HolderT, int]) -> bool:
        """Whether all that go on have a run's last block as well as those before it: then they have the whole run."""
        if ranks is self._last:
            return True
        if all(ranks.get(holder, SLOW + 1) <= level for holder, level in self._going.items()):
            self._last = ranks
            return True
        return False

    def _step_through(self, start: int, stop: int) -> None:
        last: Mapping[HolderT, int] | None = None
        for block in range(start, stop):
            ranks = self.ranks_at(start, block)
            if ranks is last:
                continue
            last = ranks
            for holder, level in list(self._going.items()):
                rank = ranks.get(holder)
                if rank is None:
                    self._end(holder, level, SLOW, block)
                    del self._going[holder]
                elif rank > level:
                    self._end(holder, level, rank - 1, block)
                    self._going[holder] = rank
        self._last = None

    def _end(self, holder: HolderT, level: int, through: int, block: int) -> None:
        """Note that from ``block`` on the holder's ranks ``level`` to ``through`` go no further."""
        found = self._found.setdefault(holder, Overlap(0, 0))
        if level <= FAST <= through:
            found.fast = block
        if through == SLOW:
            found.held = block
