"""What the gateway counts, in Prometheus' terms; ``docs/metrics.md`` explains each."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest

from aloraserve.routing.placement import Placement

_TTFT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120)
_DECISION_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class GatewayMetrics:
    """The gateway's metrics; label sets are bounded by the served names."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter(
            "aloraserve_requests_total",
            "Requests by endpoint and HTTP status.",
            ["endpoint", "status"],
            registry=self.registry,
        )
        self.ttft = Histogram(
            "aloraserve_ttft_seconds",
            "Time from an accepted request to its first token.",
            ["kind", "adapter"],
            buckets=_TTFT_BUCKETS,
            registry=self.registry,
        )
        self.prompt_tokens = Counter(
            "aloraserve_prompt_tokens_total", "Prompt tokens.", ["kind", "adapter"], registry=self.registry
        )
        self.cached_tokens = Counter(
            "aloraserve_cached_tokens_total",
            "Prompt tokens that were not prefilled, as the engine counts them.",
            ["kind", "adapter"],
            registry=self.registry,
        )
        self.decisions = Counter(
            "aloraserve_decisions_total",
            "Routing decisions by the policy that made them; fallback means without the directory.",
            ["policy"],
            registry=self.registry,
        )

        self.claims = Counter(
            "aloraserve_claims_total",
            "Claims by what became of them.",
            ["outcome"],
            registry=self.registry,
        )
        self.decision = Histogram(
            "aloraserve_decision_seconds",
            "Time that a routing decision took, by what it was spent on.",
            ["stage"],
            buckets=_DECISION_BUCKETS,
            registry=self.registry,
        )

    def observe(self, placement: Placement) -> None:
        """Count a decision's claim and its time."""
        self.claims.labels(placement.claim).inc()
        for stage, seconds in (
            ("lookup", placement.lookup_s),
            ("policy", placement.policy_s),
            ("claim", placement.claim_s),
        ):
            self.decision.labels(stage).observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


METRICS = GatewayMetrics(REGISTRY)
"""This process's metrics, beside prometheus-client's own of the process."""
