"""What a replica's cache has saved lately: the worth of what it holds, as its next calls will see it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

LATELY_S = 120.0
"""Time after which a saving weighs 1/e."""


class ReuseRate(NamedTuple):
    """Seconds of prefill per second, as in :class:`~aloraserve.directory.base.ReplicaState`."""

    saved_s: float
    saved_elsewhere_s: float


class ReuseRates:
    """Sums savings, older ones for ever less.

    Args:
        clock: seconds that never go back.
        lately_s: see :data:`LATELY_S`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, lately_s: float = LATELY_S) -> None:
        self._clock = clock
        self._lately_s = lately_s
        self._saved_s = self._elsewhere_s = 0.0
        self._at = clock()

    def add(self, saved_s: float, elsewhere_s: float) -> None:
        """Count a call.

        Args:
            saved_s: prefill that the cache saved it.
            elsewhere_s: of that, what another replica's cache would have saved as well.
        """
        self._decay()
        self._saved_s += saved_s
        self._elsewhere_s += min(elsewhere_s, saved_s)

    def rate(self) -> ReuseRate:
        """Return what is saved now."""
        self._decay()
        return ReuseRate(self._saved_s / self._lately_s, self._elsewhere_s / self._lately_s)

    def _decay(self) -> None:
        now = self._clock()
        left = math.exp(-(now - self._at) / self._lately_s)
        self._saved_s *= left
        self._elsewhere_s *= left
        self._at = now
