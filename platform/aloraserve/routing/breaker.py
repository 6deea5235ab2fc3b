"""A circuit breaker: after a few failures in a row nobody asks for a while, then one caller tries."""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST_OPEN_S = 0.05


class Breaker:
    """Closed, open or half-open. For one event loop.

    It first opens for ``FIRST_OPEN_S``, then twice as long after each trial that fails. So it closes soon after what it
    protects answers again, and a long outage still costs few trials. A half-open breaker lets one call through at a
    time, and another one if that has not reported back after as long again, so a cancelled request blocks nothing.

    Args:
        failures: failures in a row that open it.
        open_s: the longest that it stays open.
        clock: seconds that never go back.
    """

    def __init__(self, *, failures: int = 5, open_s: float = 0.25, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = failures
        self._longest_s = open_s
        self._open_s = min(FIRST_OPEN_S, open_s)
        self._clock = clock
        self._failures = 0
        self._next_trial_at = 0.0

    @property
    def closed(self) -> bool:
        """Whether calls go through freely."""
        return self._failures < self._limit

    def allow(self) -> bool:
        """Return whether the caller may try now; it should report how that went."""
        if self.closed:
            return True
        if self._clock() < self._next_trial_at:
            return False
        self._next_trial_at = self._clock() + self._open_s
        return True

    def succeed(self) -> None:
        """Close the breaker."""
        self._failures = 0
        self._open_s = min(FIRST_OPEN_S, self._longest_s)

    def fail(self) -> None:
        """Count a failure; the last of a row opens the breaker."""
        self._failures += 1
        self._next_trial_at = self._clock() + self._open_s
        if not self.closed:
            self._open_s = min(2 * self._open_s, self._longest_s)
