"""As many replicas as ever: what scaling is to cost less than."""

from __future__ import annotations

from aloraserve.scaling.base import FleetReading, Reason, ScalingDecision


class Constant:
    """Wants a fixed number.

    Args:
        replicas: how many.
    """

    def __init__(self, replicas: int) -> None:
        self._replicas = replicas

    def decide(self, reading: FleetReading) -> ScalingDecision:
        return ScalingDecision(self._replicas, Reason.COUNTS, self._replicas)
