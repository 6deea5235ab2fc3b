"""Calls, counted from outside."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from aloraserve.diagnosis.account import ReuseAccount
from aloraserve.routing.placement import Placement
from aloraserve.routing.receipts import Outcome
from aloraserve.savings.base import CallSavings
from aloraserve.serving.attempt import Attempt
from aloraserve.serving.engine_messages import EngineChunk
from aloraserve.serving.generation import Generation
from aloraserve.serving.observers import CallObserver
from aloraserve.serving.request import GenerationRequest
from aloraserve_services.gateway.metrics import SOURCES, GatewayMetrics


class _Children(dict[str, Any]):
    """Children of a metric by their one label, each made when it is first asked for.

    Args:
        labels: of the metric.
    """

    def __init__(self, labels: Callable[[str], Any]) -> None:
        super().__init__()
        self._labels = labels

    def __missing__(self, label: str) -> Any:
        child = self[label] = self._labels(label)
        return child


class CallMetrics(CallObserver):
    """Counts what becomes of calls.

    Args:
        metrics: of the gateway.
    """

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics
        self._itl = _Children(metrics.itl.labels)
        self._ladder = _Children(metrics.ladder_tokens.labels)

    def placed(self, request: GenerationRequest, placement: Placement) -> None:
        """Count a decision, its claim and its time."""
        metrics = self._metrics
        metrics.claims.labels(placement.claim.value).inc()
        metrics.cell_decisions.labels(str(placement.cell), str(placement.spilled).lower()).inc()
        if placement.fallback is not None:
            metrics.fallbacks.labels(placement.fallback.value).inc()
        metrics.decision.labels("lookup").observe(placement.lookup_s)
        metrics.decision.labels("policy").observe(placement.policy_s)
        metrics.decision.labels("claim").observe(placement.claim_s)

    def claim_moved(self, request: GenerationRequest, placement: Placement) -> None:
        """Count what became of the claim."""
        self._metrics.claims.labels(placement.claim.value).inc()

    def first_token(self, generation: Generation) -> None:
        """Count an attempt that is answered."""
        self._metrics.attempts.labels(Outcome.ANSWERED.value).inc()

    def more_tokens(self, generation: Generation, chunk: EngineChunk, itl_s: float | None) -> None:
        """Count the time per token."""
        if itl_s is not None:
            self._itl[generation.request.kind].observe(itl_s)

    def answered(self, generation: Generation) -> None:
        """Count a call: it has its answer, or will have no other."""
        metrics, kind = self._metrics, generation.request.kind
        labels = self._labels(generation.request)
        metrics.ttft.labels(*labels).observe(generation.ttft_s)
        metrics.prompt_tokens.labels(*labels).inc(generation.request.prompt_tokens)
        metrics.cached_tokens.labels(*labels).inc(generation.cached_tokens)
        metrics.decisions.labels(generation.decision.policy).inc()
        overlap = generation.overlap_tokens
        metrics.overlap_tokens.labels(kind).inc(overlap)
        metrics.missed_tokens.labels(kind).inc(max(0, overlap - generation.cached_tokens))
        if generation.reuse is not None:
            self._count_reuse(generation.reuse)
        if (error_s := generation.estimate_error_s) is not None:
            metrics.estimate_error.labels(kind).observe(error_s)
        if generation.savings is not None:
            self._count_savings(*labels, generation.savings, generation.ttft_s)

    def ended(self, attempt: Attempt, generation: Generation | None) -> None:
        """Count an attempt that was not answered, or an answer that is whole."""
        if generation is None:
            self._metrics.attempts.labels(attempt.outcome.value).inc()
        elif attempt.outcome is Outcome.ANSWERED:
            labels = self._labels(attempt.request)
            self._metrics.e2e.labels(*labels).observe(time.perf_counter() - attempt.request.origin.arrived_at)
            self._metrics.generated_tokens.labels(*labels).inc(generation.tokens)

    def _labels(self, request: GenerationRequest) -> tuple[str, str]:
        return request.kind, self._metrics.adapters.label(request.call.adapter)

    def _count_reuse(self, reuse: ReuseAccount) -> None:
        for rung, tokens in reuse.ladder._asdict().items():
            self._ladder[rung].inc(tokens)
        for cause, tokens in reuse.missed.items():
            self._metrics.unreused_tokens.labels(cause.value).inc(tokens)

    def _count_savings(self, kind: str, adapter: str, savings: CallSavings, ttft_s: float) -> None:
        """Count what reuse across adapters did to a call; counters only rise, so losses have their own."""
        metrics = self._metrics
        metrics.counterfactual.labels(kind, adapter).observe(max(0.0, ttft_s + savings.saved_s))
        metrics.saved.labels(kind, adapter).inc(max(0.0, savings.saved_s))
        metrics.lost.labels(kind, adapter).inc(max(0.0, -savings.saved_s))
        metrics.saved_tokens.labels(kind, adapter).inc(max(0, savings.saved_tokens))
        for source in SOURCES:
            metrics.cached_by_source.labels(source).inc(getattr(savings.cached, source))
