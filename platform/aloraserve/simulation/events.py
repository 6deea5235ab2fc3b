"""What happens when: a queue of callbacks in simulated time."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class EventQueue:
    """Callbacks in the order of their times; equal times in the order in which they were added."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._added = 0

    def at(self, time_s: float, call: Callable[[], None]) -> None:
        """Have ``call`` called at ``time_s``, or now if that is past."""
        self._added += 1
        heapq.heappush(self._heap, (max(time_s, self.now_s), self._added, call))

    def run(self) -> None:
        """Call everything, what is added meanwhile too."""
        while self._heap:
            self.now_s, _, call = heapq.heappop(self._heap)
            call()
