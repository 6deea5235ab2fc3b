"""A circuit breaker: after a few failures in a row nobody asks for a while, then one caller tries."""

from __future__ import annotations

import time
from collections.abc import Callable


class Breaker:
    """Closed, open or half-open. For one event loop.

    A half-open breaker lets one call through every ``open_s``, so a trial that never reports back (a
    cancelled request) blocks nothing.

    Args:
        failures: failures in a row that open it.
        open_s: how long it stays open.
        clock: seconds that never go back.
    """

    def __init__(self, *, failures: int = 5, open_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = failures
        self._open_s = open_s
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

    def fail(self) -> None:
        """Count a failure; the last of a row opens the breaker."""
        self._failures += 1
        self._next_trial_at = self._clock() + self._open_s
