"""Ray Serve's default policy: ongoing requests by a target per replica, after delays.

Source: ray 2.60 ``serve/autoscaling_policy.py`` (``replica_queue_length_autoscaling_policy``, ``_apply_delay_logic``)
and ``serve/config.py`` (``AutoscalingConfig``); the factors are 1, their default.
"""

from __future__ import annotations

import math
import statistics
from collections import deque

from aloraserve.scaling.base import FleetReading, Reason, ScalingDecision

LOOK_BACK_S = 30.0
"""``look_back_period_s``: over which ongoing requests are averaged."""


class ServeDefault:
    """See the module's docstring.

    Args:
        least: ``min_replicas``.
        most: ``max_replicas``.
        target_ongoing_requests: per replica (2).
        upscale_delay_s: for so long more must have been wanted (30).
        downscale_delay_s: for so long fewer must have been wanted (600).
    """

    def __init__(
        self, least: int, most: int, *, target_ongoing_requests: float, upscale_delay_s: float, downscale_delay_s: float
    ) -> None:
        self._least, self._most = least, most
        self._each = target_ongoing_requests
        self._delays_s = {True: upscale_delay_s, False: downscale_delay_s}
        self._seen: deque[tuple[float, int]] = deque()
        self._direction: bool | None = None
        self._since_s = 0.0

    def decide(self, reading: FleetReading) -> ScalingDecision:
        self._seen.append((reading.time_s, reading.ongoing or 0))
        while self._seen[0][0] < reading.time_s - LOOK_BACK_S:
            self._seen.popleft()
        wanted = math.ceil(statistics.fmean(ongoing for _, ongoing in self._seen) / self._each)
        wanted = min(max(wanted, self._least, 1), self._most)
        return ScalingDecision(self._delayed(reading, wanted), Reason.COUNTS, wanted)

    def _delayed(self, reading: FleetReading, wanted: int) -> int:
        current = reading.current
        if wanted == current:
            self._direction = None
            return current
        is_up = wanted > current
        if self._direction is not is_up:
            self._direction, self._since_s = is_up, reading.time_s
        if reading.time_s - self._since_s < self._delays_s[is_up]:
            return current
        self._direction = None
        return wanted
