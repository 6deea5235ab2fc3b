"""How fast a replica publishes its holdings again, so that lookups go first.

The backend answers one call at a time. After it lost its content, all replicas have everything to push: without a
pace, lookups would wait behind a push of each of them. So a replica begins slowly, at a moment of its own, and adds to
its rate while its pushes come back quickly; when they do not, others wait too, and it pushes fewer keys, less often.
"""

from __future__ import annotations

import random

QUICK_S = 0.004
"""A push that took no longer found nobody waiting. Lookups have 10 ms."""
QUICK_RATIO = 2.0
"""Nor did one that took so many times the quickest: a backend far away is not a busy one."""
START_PER_S = 2000.0
STEP_PER_S = 1000.0
LEAST_PER_S = 250.0
SLOWER = 0.6
JITTER_S = 0.2
LEAST_KEYS = 32


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
        self._per_s = START_PER_S
        self._next_at = 0.0
        self._quickest_s = QUICK_S

    def begin(self, now: float) -> None:
        """Start slowly, soon."""
        self._per_s = START_PER_S
        self._next_at = now + self._chance.uniform(0.0, JITTER_S)

    def pause_s(self, now: float) -> float:
        """Return how long the next push has to wait."""
        return max(0.0, self._next_at - now)

    def done(self, keys: int, began_at: float, now: float) -> None:
        """Note that a push came back.

        Args:
            keys: in it.
            began_at: when it was sent.
            now: on the same clock.
        """
        took_s = now - began_at
        # Slowly upwards: a backend may move further away.
        self._quickest_s = min(took_s, self._quickest_s * 1.01)
        if took_s <= max(QUICK_S, QUICK_RATIO * self._quickest_s):
            self._per_s += STEP_PER_S
            self.keys = min(self._largest, self.keys + self._smallest)
        else:
            self._per_s = max(LEAST_PER_S, self._per_s * SLOWER)
            self.keys = max(self._smallest, self.keys // 2)
        self._next_at = began_at + keys / self._per_s
