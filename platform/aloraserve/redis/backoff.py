"""When to try again: exponential back-off with full jitter, so that a fleet does not come back in step."""

from __future__ import annotations

import math
import random

BASE_S = 0.02
MOST_S = 1.0
QUIET_S = 5.0
"""Failures count no more when nothing failed for that long."""


class Backoff:
    """The next time at which something that failed may be tried again.

    The wait before attempt n is drawn from 0 to ``min(most_s, base_s * 2**n)`` ("full jitter"; Brooker, AWS
    Architecture Blog, 2015).

    Args:
        base_s: the most before the second attempt.
        most_s: the most before any.
    """

    def __init__(self, *, base_s: float = BASE_S, most_s: float = MOST_S) -> None:
        self._base_s = base_s
        self._most_s = most_s
        self._failures = 0
        self._failed_at = -math.inf
        self.not_before = 0.0

    def fail(self, now: float) -> None:
        """Note a failure, or an attempt that is one until :meth:`succeed`, at ``now`` on the clock of the caller."""
        self._failures = self._failures + 1 if now - self._failed_at < QUIET_S else 1
        self._failed_at = now
        # The exponent is bounded, because a float is.
        most_s = min(self._most_s, self._base_s * 2 ** min(self._failures, 32))
        self.not_before = now + random.uniform(0.0, most_s)  # noqa: S311 - no secret

    def succeed(self) -> None:
        """Start over."""
        self._failures, self.not_before = 0, 0.0
