"""How long replicas take to start, as seen from outside."""

from __future__ import annotations

import statistics
from collections import deque

DEFAULT_START_S = 60.0
"""Before one has been seen."""
REMEMBERED = 9
MAX_PENDING = 64


class StartTimes:
    """Notes when replicas were asked for and when they were there."""

    def __init__(self) -> None:
        self._asked: deque[float] = deque(maxlen=MAX_PENDING)
        self._took: deque[float] = deque(maxlen=REMEMBERED)
        self._running = 0

    @property
    def seconds(self) -> float:
        """The median of the last ones."""
        return statistics.median(self._took) if self._took else DEFAULT_START_S

    def asked(self, time_s: float, count: int) -> None:
        """Note that so many more replicas were asked for."""
        self._asked.extend([time_s] * min(count, MAX_PENDING))

    def seen(self, time_s: float, running: int, starting: int) -> None:
        """Note how many replicas run and start now."""
        for _ in range(min(max(running - self._running, 0), len(self._asked))):
            self._took.append(max(time_s - self._asked.popleft(), 0.0))
        self._running = running
        if not starting:
            self._asked.clear()
