"""How long replicas take to start, as seen from outside."""

from __future__ import annotations

import statistics
from collections import deque

DEFAULT_START_S = 60.0
"""Before one has been seen."""
MOST_START_S = 3600.0
"""After so long a replica that was asked for is not awaited any more."""
REMEMBERED = 9
MAX_PENDING = 64


class StartTimes:
    """Notes when replicas were asked for and when they were there.

    Who counts replicas may be later than who asks for them: that none is starting means that they are there, or were
    given up, only after as many as were asked for have been seen.
    """

    def __init__(self) -> None:
        self._asked: deque[float] = deque(maxlen=MAX_PENDING)
        self._took: deque[float] = deque(maxlen=REMEMBERED)
        self._running = self._target = 0

    @property
    def seconds(self) -> float:
        """The median of the last ones."""
        return statistics.median(self._took) if self._took else DEFAULT_START_S

    def asked(self, time_s: float, count: int, target: int) -> None:
        """Note that so many more replicas were asked for, which makes ``target``."""
        self._asked.extend([time_s] * min(count, MAX_PENDING))
        self._target = target

    def lowered(self, target: int) -> None:
        """Note that so few are wanted now: those that were asked for last will not come."""
        while self._asked and self._running + len(self._asked) > target:
            self._asked.pop()
        self._target = target

    def seen(self, time_s: float, running: int, starting: int) -> None:
        """Note how many replicas run and start now."""
        for _ in range(min(max(running - self._running, 0), len(self._asked))):
            self._took.append(max(time_s - self._asked.popleft(), 0.0))
        self._running = running
        if running + starting >= self._target:
            self._target = 0
        if not self._target and not starting:
            self._asked.clear()
        while self._asked and time_s - self._asked[0] > MOST_START_S:
            self._asked.popleft()

    def soon_s(self, time_s: float, start_s: float) -> float:
        """Return the seconds that those which start will have run ``start_s`` from now, all together.

        Args:
            time_s: now.
            start_s: how long each takes to start.
        """
        return sum(min(max(time_s - asked_s, 0.0), start_s) for asked_s in self._asked)
