"""The scaling board in this process's memory: for tests and simulations."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from aloraserve.scaling.base import MAX_GATEWAYS, Demand
from aloraserve.scaling.board import DEMAND_TTL_S, LATEST_KEPT_S, MAX_RECORDS, ScalingHistory, ScalingRecord


class MemoryBoard:
    """See :class:`~aloraserve.scaling.board.ScalingBoard`; never unavailable. For one event loop.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._demands: dict[str, tuple[float, Demand]] = {}
        self._latest: tuple[float, ScalingRecord] | None = None
        self._changes: deque[ScalingRecord] = deque(maxlen=MAX_RECORDS)

    async def publish(self, demand: Demand, *, ttl_s: float = DEMAND_TTL_S) -> None:
        self._expire()
        if demand.gateway in self._demands or len(self._demands) < MAX_GATEWAYS:
            self._demands[demand.gateway] = (self._clock() + ttl_s, demand)

    async def demands(self) -> list[Demand]:
        self._expire()
        return [demand for _, (_, demand) in sorted(self._demands.items())]

    async def record(self, record: ScalingRecord, *, is_change: bool) -> None:
        self._latest = (self._clock() + LATEST_KEPT_S, record)
        if is_change:
            self._changes.appendleft(record)

    async def history(self) -> ScalingHistory:
        latest = self._latest[1] if self._latest and self._latest[0] > self._clock() else None
        return ScalingHistory(latest, tuple(self._changes))

    async def close(self) -> None:
        return None

    def _expire(self) -> None:
        now = self._clock()
        self._demands = {name: item for name, item in self._demands.items() if item[0] > now}
