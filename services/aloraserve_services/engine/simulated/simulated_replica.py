"""A replica with a simulated engine, which fails when a test asks and says what its model said of each call."""

from __future__ import annotations

from collections.abc import Sequence

from aloraserve.directory.base import Directory
from aloraserve_services.engine.base import EngineParts
from aloraserve_services.engine.opening import open_simulated
from aloraserve_services.engine.replica import EngineReplica
from aloraserve_services.engine.simulated.fault_injector import FaultInjector
from aloraserve_services.engine.simulated.faults import SeverableDirectory
from aloraserve_services.plan import FleetPlan


class SimulatedEngineReplica(EngineReplica):
    """See :class:`~aloraserve_services.engine.replica.EngineReplica`; HTTP has no way to what is added here."""

    async def fail(self, kind: str, rank: Sequence[str] = ()) -> None:
        """Do something wrong from now on, as a test asks.

        Args:
            kind: one of :data:`~aloraserve_services.engine.simulated.faults.FAULTS`; "heal" ends all that do not
                end the process.
            rank: which replica the call is for; the request router reads it.

        Raises:
            InvalidRequestError: there is no such fault.
        """
        self._faults.inject(kind)

    async def served(self, rank: Sequence[str] = ()) -> list[tuple[str, float]]:
        """Return the last calls: their ids and the model's own TTFT in seconds.

        Args:
            rank: which replica the call is for; the request router reads it.
        """
        return list(self._engine.served)

    def _open_directory(self, plan: FleetPlan, cell: int) -> Directory:
        self._way = SeverableDirectory(super()._open_directory(plan, cell))
        return self._way

    def _open_engine(self, plan: FleetPlan) -> EngineParts:
        self._engine, events = open_simulated(plan)
        self._faults = FaultInjector(self._engine, events, self._way)
        return EngineParts(self._engine, events)
