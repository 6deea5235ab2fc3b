"""Another project's router in the simulator: its formula, and what it hears of the fleet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from aloraserve.blocks import BlockKey
from aloraserve.simulation.base import KvBatch, ObservedReplica, RunContext, SimulatedCall, VisibleFleet
from aloraserve.simulation.routers.front_queue import FrontQueue, QueueingFormula


class Formula(Protocol):
    """A published choice of a replica, on exact bookkeeping. ``name`` is what ``--policy`` takes."""

    name: str

    def choose(self, call: SimulatedCall, fleet: VisibleFleet, now_s: float) -> int:
        """Return the number of the replica that gets ``call``; a member of ``fleet.alive``."""
        ...

    def observe(self, replica: int, stored: Sequence[BlockKey], removed: Sequence[BlockKey], now_s: float) -> None:
        """Take in a replica's KV events: exact keys (:attr:`SimulatedCall.keys`) that came and that went.

        Stored keys are in chain order, each after its parent. Events that are lost on their way never come. A router
        that salts or ignores adapters learns what its own key scheme makes of it from :meth:`first_token`.
        """
        ...

    def first_token(self, call: SimulatedCall, replica: int, now_s: float) -> None:
        """Learn that the call's prefill is over: its whole prompt is in the replica's cache now."""
        ...

    def finished(self, call: SimulatedCall, replica: int, now_s: float) -> None:
        """Learn that the call ended, or failed with its replica."""
        ...

    def lost(self, replica: int, now_s: float) -> None:
        """Learn that a replica is gone and with it everything it had cached."""
        ...


FormulaFactory = Callable[[int, VisibleFleet], Formula]
"""Makes a formula from a seed and the fleet as it starts."""


class FormulaRouter:
    """See :class:`~aloraserve.simulation.base.RouterModel`: decides in no time, by a formula.

    Args:
        make: makes the formula.
        context: of the run.
    """

    fallbacks = 0

    def __init__(self, make: FormulaFactory, context: RunContext) -> None:
        self._formula = make(context.seed, context.fleet)
        self._queue = FrontQueue(self._formula, context) if isinstance(self._formula, QueueingFormula) else None
        self._context = context
        self.name = self._formula.name

    async def place(self, call: SimulatedCall) -> int:
        if self._queue is not None:
            return await self._queue.place(call)
        return self._formula.choose(call, self._context.fleet, self._context.loop.now_s)

    async def lost(self, call: SimulatedCall, replica: int) -> None:
        self._formula.finished(call, replica, self._context.loop.now_s)
        self.release()

    def watch(self, replica: ObservedReplica) -> FormulaObserver:
        self._context.loop.at(self._context.loop.now_s, self.release)
        return FormulaObserver(self._formula, replica.view.index, self._context, self.release)

    def release(self) -> None:
        """Place what waits in front of the fleet and need not any more."""
        if self._queue is not None:
            self._queue.release()


class FormulaObserver:
    """See :class:`~aloraserve.simulation.base.ReplicaObserver`: hands on what a formula takes.

    Args:
        formula: who hears it.
        replica: the replica's number.
        context: of the run.
        on_less: called when the replica may have less to do.
    """

    def __init__(self, formula: Formula, replica: int, context: RunContext, on_less: Callable[[], None]) -> None:
        self._formula = formula
        self._replica = replica
        self._loop = context.loop
        self._on_less = on_less

    def accepted(self, call: SimulatedCall) -> None:
        return None

    def first_token(self, call: SimulatedCall) -> None:
        self._formula.first_token(call, self._replica, self._loop.now_s)
        self._on_less()

    def finished(self, call: SimulatedCall) -> None:
        self._formula.finished(call, self._replica, self._loop.now_s)
        self._on_less()

    def arrived(self, batch: KvBatch) -> None:
        for event in batch.events:
            keys = [holding.key for holding in event.stored]
            self._formula.observe(self._replica, keys, event.removed, self._loop.now_s)

    def stepped(self, *, is_prefilled: bool) -> None:
        return None

    def died(self) -> None:
        self._formula.lost(self._replica, self._loop.now_s)
        self._on_less()
