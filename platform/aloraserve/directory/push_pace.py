"""How fast a replica publishes its holdings again, so that lookups go first.

The backend answers one call at a time. After it lost its content, all replicas have everything to push: without a
pace, lookups would wait behind a long push of each of them. So a replica begins with small pushes, at a moment of its
own, and adds to them while they come back quickly. When they do not, others wait too: it halves its pushes, and rests
longer between them, in proportion to their own time. So many replicas share a backend evenly, and a few use it fully.
"""

from __future__ import annotations

import random

QUICK_S = 0.004
"""A push that took no longer met few others. Lookups have 10 ms."""
QUICK_RATIO = 2.0
"""Nor did one that took so many times the quickest: a backend far away is not a busy one."""
LEAST_KEYS = 64
JITTER_S = 0.2
LEAST_REST_S = 0.001
REST_STEP = 0.5
"""How much longer a replica rests after each slow push, and shorter after each quick one, in times of that push."""
MAX_REST = 4.0


class PushPace:
    """The size of the next push, and when it may begin.

    Args:
        largest: keys in a push.
        chance: draws when a paced time begins.
    """

    def __init__(self, largest: int, chance: random.Random) -> None:
        self.keys = self._largest = largest
        self._smallest = min(LEAST_KEYS, largest)
        self._chance = chance
        self._rest = 0.0
        self._rest_s = 0.0
        self._quickest_s = QUICK_S

    def begin(self) -> None:
        """Start small, and soon."""
        self.keys = self._smallest
        self._rest_s = self._chance.uniform(0.0, JITTER_S)

    def rest_s(self) -> float:
        """Return how long the next push has to wait."""
        return max(LEAST_REST_S, self._rest_s)

    def done(self, took_s: float, woke_late_s: float = 0.0) -> None:
        """Note that a push came back.

        Args:
            took_s: from its begin.
            woke_late_s: how much longer than asked for the rest before it was: a process that is busy itself sees
                replies late, too, which says nothing of the backend.
        """
        took_s = max(0.0, took_s - woke_late_s)
        # Slowly upwards: a backend may move further away.
        self._quickest_s = min(took_s, self._quickest_s * 1.01)
        if took_s <= max(QUICK_S, QUICK_RATIO * self._quickest_s):
            self._rest = max(0.0, self._rest - REST_STEP)
            self.keys = min(self._largest, self.keys + self._smallest)
        else:
            self._rest = min(MAX_REST, self._rest + REST_STEP)
            self.keys = max(self._smallest, self.keys // 2)
        self._rest_s = self._rest * took_s
