"""Metrics of the autoscaler, which Serve's controller shows at an address of their own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge

from aloraserve.scaling.base import Reason
from aloraserve.scaling.board import ScalingRecord
from aloraserve.telemetry.instruments import Instruments

PARTS = ("settings", "reading", "deciding", "marking", "recording", "counting")
"""Of a decision; what fails is counted by them."""


class ScalingMetrics(Instruments):
    """See :class:`~aloraserve.telemetry.instruments.Instruments`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.replicas = self._gauge(
            "aloraserve_scaling_replicas",
            "Engine replicas: wanted (target), needed by the load, running, starting, leaving.",
            "state",
        )
        self.reason = self._gauge("aloraserve_scaling_reason", "1 for what the last target comes from.", "reason")
        self.ttft = self._gauge("aloraserve_scaling_expected_ttft_seconds", "TTFT expected with the target.")
        self.itl = self._gauge("aloraserve_scaling_expected_itl_seconds", "Time between tokens, likewise.")
        self.load = self._gauge(
            "aloraserve_scaling_load_seconds_per_second", "Seconds of engines' work that arrive per second.", "kind"
        )
        self.backlog = self._gauge("aloraserve_scaling_backlog_seconds", "Of one replica, that waiting calls take.")
        self.start = self._gauge("aloraserve_scaling_replica_start_seconds", "Time that a replica takes to start.")
        self.knows = self._gauge("aloraserve_scaling_directory_known", "1 while the directory can be read.")
        self.seam = self._gauge("aloraserve_scaling_victims_chosen", "1 if Serve stops the replicas that are chosen.")
        self.changes = self.counter(
            "aloraserve_scaling_changes_total", "Changes of the target.", ["direction", "reason"]
        )
        self.stopped = self.counter("aloraserve_scaling_stops_total", "Choices of replicas to stop.", ["chosen_by"])
        self.failures = self.counter("aloraserve_scaling_failures_total", "Parts of decisions that failed.", ["part"])
        for part in PARTS:
            self.failures.labels(part)
        for chosen_by in ("worth", "serve"):
            self.stopped.labels(chosen_by)
        for reason in Reason:
            for direction in ("up", "down"):
                self.changes.labels(direction, reason.value)

    def show(self, record: ScalingRecord) -> None:
        """Show a decision and the fleet that it was made for."""
        decision, estimate = record.decision, record.decision.estimate
        counts = {
            "target": decision.target,
            "needed": decision.needed,
            "running": record.running,
            "starting": record.starting,
            "leaving": len(record.leaving) + len(decision.victims),
        }
        for state, count in counts.items():
            self.replicas.labels(state).set(count)
        for reason in Reason:
            self.reason.labels(reason.value).set(reason is decision.reason)
        self.ttft.set(estimate.ttft_s)
        self.itl.set(estimate.itl_s)
        self.load.labels("prefill").set(estimate.prefill_s_per_s)
        self.load.labels("decode").set(estimate.decode_s_per_s)
        self.backlog.set(estimate.backlog_s)
        self.start.set(estimate.start_s)
        self.knows.set(record.is_known)
        self.seam.set(record.seam)

    def count_change(self, before: int, record: ScalingRecord) -> None:
        """Count a target that is another one than before."""
        direction = "up" if record.decision.target > before else "down"
        self.changes.labels(direction, record.decision.reason.value).inc()

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        return Gauge(name, documentation, labels, registry=self.registry)
