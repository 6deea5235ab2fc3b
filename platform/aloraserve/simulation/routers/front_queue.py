"""A queue in front of the fleet: late binding, for routers that hold calls back while every replica is busy."""

from __future__ import annotations

import asyncio
import heapq
from typing import Protocol, runtime_checkable

from aloraserve.simulation.base import RunContext, SimulatedCall, VisibleFleet


@runtime_checkable
class QueueingFormula(Protocol):
    """A formula that may want a call to wait."""

    def choose(self, call: SimulatedCall, fleet: VisibleFleet, now_s: float) -> int:
        """See :class:`~aloraserve.simulation.routers.formula.Formula`."""
        ...

    def is_busy(self, fleet: VisibleFleet) -> bool:
        """Return whether calls wait now; False with nobody alive."""
        ...

    def rank(self, call: SimulatedCall, fleet: VisibleFleet) -> float:
        """Return a waiting call's place among others, the lowest first; equal ones in the order in which they came."""
        ...


class FrontQueue:
    """Calls that wait until some replica is busy no more, and are placed by what is known then.

    As many wait as are under way; with nobody alive they are let go, to wait for a restart like all others.

    Args:
        formula: says when to wait and chooses.
        context: of the run.
    """

    def __init__(self, formula: QueueingFormula, context: RunContext) -> None:
        self._formula = formula
        self._fleet = context.fleet
        self._loop = context.loop
        self._waiting: list[tuple[float, int, SimulatedCall, asyncio.Future[int]]] = []
        self._count = 0

    async def place(self, call: SimulatedCall) -> int:
        """Return the replica that gets ``call``, once one need not be waited for."""
        if not self._waiting and not self._formula.is_busy(self._fleet):
            return self._formula.choose(call, self._fleet, self._loop.now_s)
        placed: asyncio.Future[int] = self._loop.create_future()
        self._count += 1
        heapq.heappush(self._waiting, (self._formula.rank(call, self._fleet), self._count, call, placed))
        self.release()
        return await placed

    def release(self) -> None:
        """Place calls as long as some replica is not busy."""
        fleet = self._fleet
        while self._waiting and not (fleet.alive and self._formula.is_busy(fleet)):
            *_, call, placed = heapq.heappop(self._waiting)
            placed.set_result(self._formula.choose(call, fleet, self._loop.now_s) if fleet.alive else 0)
