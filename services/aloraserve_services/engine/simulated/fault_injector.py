"""Failure on demand of one simulated replica."""

from __future__ import annotations

import os
from collections.abc import Callable

from aloraserve.errors import InvalidRequestError
from aloraserve_services.engine.simulated.engine import SimulatedEngine
from aloraserve_services.engine.simulated.events import SimulatedEvents
from aloraserve_services.engine.simulated.faults import POISON, SeverableDirectory, check_fault


class FaultInjector:
    """Lets the parts of a simulated replica fail as a test asks.

    Args:
        engine: that can hang, or be ended by a call.
        events: of which batches can go astray.
        way: to the directory.
        die: ends the process.
    """

    def __init__(
        self,
        engine: SimulatedEngine,
        events: SimulatedEvents,
        way: SeverableDirectory,
        die: Callable[[], None] = lambda: os._exit(1),
    ) -> None:
        self._engine = engine
        self._events = events
        self._way = way
        self._die = die

    def inject(self, kind: str) -> None:
        """Do something wrong from now on.

        Args:
            kind: one of :data:`~aloraserve_services.engine.simulated.faults.FAULTS`; "heal" ends all that do
                not end the process.

        Raises:
            InvalidRequestError: there is no such fault.
        """
        try:
            fault = check_fault(kind)
        except ValueError as error:
            raise InvalidRequestError(str(error)) from None
        if fault == "die":
            self._die()
        elif fault == "heal":
            self._events.inject(None)
            self._engine.hang(False)
            self._engine.poison = None
            self._way.is_severed = False
        elif fault == "hang":
            self._engine.hang(True)
        elif fault == "poison":
            self._engine.poison = POISON
        elif fault == "partition":
            self._way.is_severed = True
        else:
            self._events.inject(fault)
