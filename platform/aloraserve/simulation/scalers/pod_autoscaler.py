"""Kubernetes' horizontal pod autoscaler on one metric of the engines, alone or driven by a KEDA trigger.

Source: kubernetes 1.34 ``pkg/controller/podautoscaler/replica_calculator.go`` and ``horizontal.go``: the mean over the
pods by its target, within a tolerance; pods that have no metric yet count as idle where that asks for more; at most
twice the pods, or four more, each 15 s; fewer only when for ``stabilization_s`` no more were wanted.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Literal

from aloraserve.directory.base import ReplicaLoad
from aloraserve.scaling.base import FleetReading, Reason, ScalingDecision

SYNC_S = 15.0
TOLERANCE = 0.1
Metric = Literal["kv-usage", "waiting", "ongoing"]
"""vLLM's ``kv_cache_usage_perc``, ``num_requests_waiting``, and that with ``num_requests_running``."""


class PodAutoscaler:
    """See the module's docstring.

    Args:
        least: ``minReplicas``.
        most: ``maxReplicas``.
        metric: of each pod.
        target: its average.
        stabilization_s: of scaling down (300).
    """

    def __init__(self, least: int, most: int, *, metric: Metric, target: float, stabilization_s: float) -> None:
        self._least, self._most = least, most
        self._metric: Metric = metric
        self._target = target
        self._stabilization_s = stabilization_s
        self._wanted: deque[tuple[float, int]] = deque()
        self._synced_s = -math.inf

    def decide(self, reading: FleetReading) -> ScalingDecision:
        current = reading.current
        if reading.time_s - self._synced_s < SYNC_S:
            return ScalingDecision(current, Reason.COUNTS, current)
        self._synced_s = reading.time_s
        wanted = min(max(self._asked(reading), self._least, 1), self._most)
        self._wanted.append((reading.time_s, wanted))
        while self._wanted[0][0] < reading.time_s - self._stabilization_s:
            self._wanted.popleft()
        lowest = max(count for _, count in self._wanted)
        fastest = max(2 * current, current + 4)
        target = min(wanted, fastest) if wanted > current else min(lowest, current)
        return ScalingDecision(target, Reason.COUNTS, wanted)

    def _asked(self, reading: FleetReading) -> int:
        total = sum(_value(state.load, self._metric) for state in reading.replicas)
        ready = max(reading.running, 1)
        ratio = total / ready / self._target
        if abs(ratio - 1) <= TOLERANCE:
            return reading.current
        if ratio < 1 or not reading.starting:
            return math.ceil(ratio * ready)
        # Pods without a metric count as idle, and must not turn more into fewer.
        damped = total / reading.current / self._target
        return math.ceil(damped * reading.current) if damped > 1 + TOLERANCE else reading.current


def _value(load: ReplicaLoad, metric: Metric) -> float:
    if metric == "kv-usage":
        return load.kv_usage
    return load.waiting + (load.running if metric == "ongoing" else 0)
