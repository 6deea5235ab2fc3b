"""The fleet as its directories and its board say, read by the autoscaler."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from aloraserve.directory.base import Directory, ReplicaState
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.scaling.base import Demand
from aloraserve.scaling.board import ScalingBoard

LATELY_S = 5.0
"""How long what was read counts when it cannot be read again."""


@dataclass(frozen=True, slots=True)
class FleetFacts:
    """What was read.

    Args:
        states: of the live replicas.
        cells: which cell's directory each of them is in.
        demands: of the gateways.
        is_known: whether it was read lately; nothing else is in it if not.
    """

    states: Sequence[ReplicaState] = ()
    cells: Mapping[str, int] = field(default_factory=dict)
    demands: Sequence[Demand] = ()
    is_known: bool = True


UNKNOWN = FleetFacts(is_known=False)


class Reader(Protocol):
    """Reads the fleet."""

    async def read(self) -> FleetFacts:
        """Return the fleet as it is, or as it was lately."""
        ...


class NoReader:
    """Stands where nobody knows where the directory is."""

    async def read(self) -> FleetFacts:
        """Return that nothing is known."""
        return UNKNOWN


class FleetReader:
    """See :class:`Reader`; remembers for a while what it read.

    Args:
        directories: of the cells, in order.
        board: of the fleet.
        on_failure: called for each reading that fails.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        directories: Sequence[Directory],
        board: ScalingBoard,
        on_failure: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directories = directories
        self._board = board
        self._on_failure = on_failure
        self._clock = clock
        self._last = UNKNOWN
        self._read_at = clock()

    async def read(self) -> FleetFacts:
        """See :class:`Reader`."""
        try:
            demands, cells = await asyncio.gather(
                self._board.demands(), asyncio.gather(*[directory.states() for directory in self._directories])
            )
        except DirectoryUnavailableError:
            self._on_failure()
            return self._last if self._clock() - self._read_at <= LATELY_S else UNKNOWN
        placed = [(state, cell) for cell, states in enumerate(cells) for state in states]
        self._last = FleetFacts(
            [state for state, _ in placed], {state.replica: cell for state, cell in placed}, demands
        )
        self._read_at = self._clock()
        return self._last
