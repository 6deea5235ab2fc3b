"""A replica with a simulated engine, which fails when a test asks and tells what its model said of each call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from aloraserve.directory.base import Directory
from aloraserve.errors import InvalidRequestError
from aloraserve_services.engine.replica import EngineReplica
from aloraserve_services.engine.simulated.faults import EVENT_FAULTS, SeverableDirectory, check_fault


class SimulatedEngineReplica(EngineReplica):
    """See :class:`~aloraserve_services.engine.replica.EngineReplica`; HTTP has no way to what is added here."""

    async def fail(self, kind: str, rank: Sequence[str] = ()) -> None:
        """Do something wrong from now on, as a test asks.

        Args:
            kind: one of :data:`~aloraserve_services.engine.simulated.faults.FAULTS`; "heal" ends all that do not
                end the process.
            rank: whom the call is for; the request router reads it.

        Raises:
            InvalidRequestError: there is no such fault.
        """
        try:
            fault = check_fault(kind)
        except ValueError as error:
            raise InvalidRequestError(str(error)) from None
        if fault == "die":
            os._exit(1)
        engine: Any = self._engine
        events: Any = self._events
        if fault in (*EVENT_FAULTS, "heal"):
            events.inject(None if fault == "heal" else fault)
        if fault in ("hang", "heal"):
            engine.hang(fault == "hang")
        if fault in ("partition", "heal"):
            self._way.is_severed = fault == "partition"

    async def served(self, rank: Sequence[str] = ()) -> list[tuple[str, float]]:
        """Return the last calls: their ids and the model's own TTFT in seconds.

        Args:
            rank: whom the call is for; the request router reads it.
        """
        engine: Any = self._engine
        return list(engine.served)

    def _open_directory(self) -> Directory:
        self._way = SeverableDirectory(super()._open_directory())
        return self._way
