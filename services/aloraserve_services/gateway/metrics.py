"""What the gateway counts, in Prometheus' terms; ``docs/metrics.md`` explains each."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest

_TTFT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120)
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

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


METRICS = GatewayMetrics(REGISTRY)
"""This process's metrics, beside prometheus-client's own of the process."""
