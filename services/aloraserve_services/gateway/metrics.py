"""Metrics of the gateway, in Prometheus' terms; ``docs/reference/metrics.md`` explains each."""

from __future__ import annotations

from dataclasses import fields

from prometheus_client import CollectorRegistry, Gauge

from aloraserve.diagnosis.account import Ladder, MissCause
from aloraserve.limits.base import CONCURRENCY, NAMES
from aloraserve.routing.placement import ClaimOutcome, FallbackCause
from aloraserve.routing.receipts import Outcome
from aloraserve.savings.base import CachedBySource
from aloraserve.telemetry.directory import DirectoryMetrics
from aloraserve.telemetry.instruments import Instruments
from aloraserve.telemetry.labels import BoundedNames

_TTFT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120)
_ITL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
_DECISION_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)
_ERROR_BUCKETS = (-10, -2.5, -1, -0.5, -0.25, -0.1, -0.05, -0.02, 0, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
SOURCES = tuple(item.name for item in fields(CachedBySource))
TLS_LOADED, TLS_REFUSED = TLS_RELOADS = ("loaded", "refused")
ATTEMPT_OUTCOMES = [outcome for outcome in Outcome if outcome is not Outcome.CUT_SHORT]
"""What an attempt can have come to when it is counted: at its first chunk, or at its end without one."""


class GatewayMetrics(Instruments):
    """The gateway's metrics.

    Attributes:
        adapters: what ``adapter`` labels come from.
        tenants: what ``tenant`` labels come from: those that keys name.
        directory: of its calls to the directory.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.adapters = BoundedNames()
        self.tenants = BoundedNames()
        self.directory = DirectoryMetrics(registry)
        self._of_requests()
        self._of_decisions()
        self._of_savings()
        self._of_tenants()
        self._of_tls()
        self._begin_at_zero()

    def _of_requests(self) -> None:
        """Add the metrics of HTTP requests and their answers."""
        self.requests = self.counter(
            "aloraserve_requests_total", "Requests by endpoint and HTTP status.", ["endpoint", "status"]
        )
        self.in_progress = Gauge(
            "aloraserve_requests_in_progress", "Completion requests that are being answered.", registry=self.registry
        )
        self.ttft = self.histogram(
            "aloraserve_ttft_seconds",
            "Time from an accepted request to its first token.",
            ["kind", "adapter"],
            _TTFT_BUCKETS,
        )
        self.e2e = self.histogram(
            "aloraserve_e2e_seconds",
            "Time from a request's arrival to the end of its answer.",
            ["kind", "adapter"],
            _TTFT_BUCKETS,
        )
        self.itl = self.histogram(
            "aloraserve_itl_seconds",
            "Time between two tokens of an answer, as they reach the gateway.",
            ["kind"],
            _ITL_BUCKETS,
        )
        self.prompt_tokens = self.counter("aloraserve_prompt_tokens_total", "Prompt tokens.", ["kind", "adapter"])
        self.cached_tokens = self.counter(
            "aloraserve_cached_tokens_total",
            "Prompt tokens that were not prefilled, as the engine counts them.",
            ["kind", "adapter"],
        )
        self.generated_tokens = self.counter(
            "aloraserve_generated_tokens_total", "Tokens of whole answers.", ["kind", "adapter"]
        )

    def _of_decisions(self) -> None:
        """Add the metrics of routing."""
        self.decisions = self.counter(
            "aloraserve_decisions_total",
            "Routing decisions by the policy that made them; fallback means without the directory.",
            ["policy"],
        )
        self.decision = self.histogram(
            "aloraserve_decision_seconds",
            "Time that a routing decision took, by what it was spent on.",
            ["stage"],
            _DECISION_BUCKETS,
        )
        self.estimate_error = self.histogram(
            "aloraserve_estimate_error_seconds",
            "Actual TTFT less the one that the decision expected of the replica that answered.",
            ["kind"],
            _ERROR_BUCKETS,
        )
        self.fallbacks = self.counter(
            "aloraserve_fallbacks_total", "Decisions without the directory, by why.", ["reason"]
        )
        self.cell_decisions = self.counter(
            "aloraserve_cell_decisions_total",
            "Decisions by the cell whose replicas were the candidates, and whether that is not the call's own.",
            ["cell", "spilled"],
        )
        self.claims = self.counter("aloraserve_claims_total", "Claims by what became of them.", ["outcome"])
        self.attempts = self.counter(
            "aloraserve_attempts_total", "Attempts to have a call answered, by what became of them.", ["outcome"]
        )
        self.overlap_tokens = self.counter(
            "aloraserve_overlap_tokens_total", "Prompt tokens that the decision expected to be cached.", ["kind"]
        )
        self.missed_tokens = self.counter(
            "aloraserve_overlap_missed_tokens_total",
            "Of those, the tokens that were prefilled all the same: what the directory promised was not there.",
            ["kind"],
        )
        self.ladder_tokens = self.counter(
            "aloraserve_reusable_tokens_total",
            "Prompt tokens that would have needed no prefill: in an endless cache, in one of the fleet's size, with "
            "perfect routing, as predicted, and as delivered; and all of them.",
            ["rung"],
        )
        self.unreused_tokens = self.counter(
            "aloraserve_unreused_tokens_total",
            "Prompt tokens that were prefilled although somebody held them, or had held them, by why.",
            ["cause"],
        )

    def _of_savings(self) -> None:
        """Add the metrics of reuse across adapters."""
        self.counterfactual = self.histogram(
            "aloraserve_counterfactual_ttft_seconds",
            "TTFT that calls would have had with a cache keyed by adapter, as estimated.",
            ["kind", "adapter"],
            _TTFT_BUCKETS,
        )
        self.saved = self.counter(
            "aloraserve_saved_ttft_seconds_total",
            "TTFT that reuse across adapters saved, of the calls that it made faster.",
            ["kind", "adapter"],
        )
        self.lost = self.counter(
            "aloraserve_lost_ttft_seconds_total",
            "TTFT that it cost, of the calls that it made slower.",
            ["kind", "adapter"],
        )
        self.saved_tokens = self.counter(
            "aloraserve_saved_prefill_tokens_total",
            "Prompt tokens that reuse across adapters saved from prefill, of the calls where it did.",
            ["kind", "adapter"],
        )
        self.cached_by_source = self.counter(
            "aloraserve_cached_tokens_by_source_total", "Cached prompt tokens by who first computed them.", ["source"]
        )
        self.ledger_failures = self.counter(
            "aloraserve_savings_ledger_failures_total", "Flushes to the savings ledger that failed.", []
        )

    def _of_tenants(self) -> None:
        """Add the metrics of what tenants use and are refused."""
        self.tenant_requests = self.counter(
            "aloraserve_tenant_requests_total", "Requests that were answered, by tenant.", ["tenant"]
        )
        self.tenant_tokens = self.counter(
            "aloraserve_tenant_tokens_total",
            "Tokens of answered calls, by tenant: prompt tokens that were cached, or not, and generated ones.",
            ["tenant", "kind"],
        )
        self.tenant_refusals = self.counter(
            "aloraserve_tenant_refusals_total",
            "Calls that a limit of the tenant's own refused, by which one.",
            ["tenant", "limit"],
        )
        self.limits_taken_here = self.counter(
            "aloraserve_limits_unavailable_total",
            "Calls for which the store of limits did not answer, so that the gateway went by its own share.",
            [],
        )
        self.usage_failures = self.counter(
            "aloraserve_usage_ledger_failures_total", "Flushes to the usage ledger that failed.", []
        )

    def _of_tls(self) -> None:
        """Add the metrics of certificates."""
        self.tls_reloads = self.counter(
            "aloraserve_tls_reloads_total", "Changes of the TLS files by what became of them.", ["outcome"]
        )
        self.tls_expiry = Gauge(
            "aloraserve_tls_certificate_expiry_timestamp_seconds",
            "When the certificate that is shown expires, in seconds since 1970; 0 without TLS.",
            registry=self.registry,
        )

    def _begin_at_zero(self) -> None:
        """Show what has not happened yet, so that its first time is an increase."""
        for claim in ClaimOutcome:
            self.claims.labels(claim.value)
        for cause in FallbackCause:
            self.fallbacks.labels(cause.value)
        for rung in Ladder._fields:
            self.ladder_tokens.labels(rung)
        for miss in MissCause:
            self.unreused_tokens.labels(miss.value)
        for outcome in ATTEMPT_OUTCOMES:
            self.attempts.labels(outcome.value)
        for reload in TLS_RELOADS:
            self.tls_reloads.labels(reload)
        for source in SOURCES:
            self.cached_by_source.labels(source)
        for limit in (*NAMES, CONCURRENCY):
            self.tenant_refusals.labels("", limit)

    def turn_off(self) -> None:
        """See :class:`~aloraserve.telemetry.instruments.Instruments`."""
        super().turn_off()
        self.directory.turn_off()
