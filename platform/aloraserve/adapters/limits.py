"""Limits of running engines: fixed when they start, whatever adapters come later."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from aloraserve.adapters.base import AdapterVersion
from aloraserve.adapters.problems import Problem, ProblemCode

RANK_SLOTS = (8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True, slots=True)
class AdapterLimits:
    """Linears that engines compute adapters for, and the highest rank.

    A started engine wraps these linears and no other, and its slots have this rank. Each linear more costs every call
    of an adapter time (``docs/adr/0008-live-adapters.md``).

    Args:
        modules: names of linears.
        rank: highest rank of an adapter.
    """

    modules: frozenset[str]
    rank: int

    @classmethod
    def around(cls, versions: Iterable[AdapterVersion], modules: Iterable[str], rank: int) -> AdapterLimits:
        """Return limits with room for these versions, and for adapters of those modules and that rank besides.

        The rank is one that vLLM has slots for: kernels compute a slot's whole rank.
        """
        found = list(versions)
        wanted = frozenset(modules).union(*(version.target_modules for version in found))
        highest = max([rank, *(version.rank for version in found)])
        return cls(wanted, next(slot for slot in RANK_SLOTS if slot >= highest))

    def problems(self, target_modules: Iterable[str], rank: int) -> Iterator[Problem]:
        """Yield why the running engines have no room for an adapter; each says which setting makes room.

        Args:
            target_modules: last names of the linears that it changes.
            rank: its rank.
        """
        if missing := sorted(set(target_modules) - self.modules):
            yield _no_room(
                f"it changes {', '.join(missing)}, but the engines were started for adapters of "
                f"{', '.join(sorted(self.modules))}; set reserve_modules, or restart the platform with this adapter"
            )
        if rank > self.rank:
            yield _no_room(
                f"its rank is {rank}, but the engines were started for adapters of rank {self.rank} at most; "
                "set reserve_rank, or restart the platform with this adapter"
            )


def _no_room(found: str) -> Problem:
    return Problem(ProblemCode.ROOM, "", found)
