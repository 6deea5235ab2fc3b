"""Calls as spans: each decision leaves one, and the request's own says how it was served."""

from __future__ import annotations

from aloraserve.routing.placement import Placement
from aloraserve.serving.generation import Generation
from aloraserve.serving.observers import CallObserver
from aloraserve.serving.request import GenerationRequest
from aloraserve.telemetry.decision import decision_attributes
from aloraserve.telemetry.tracing import Tracing, now_s


class CallSpans(CallObserver):
    """Leaves spans, and attributes of the current one; never a prompt, a key, a session or a tenant.

    Args:
        tracing: of this process.
    """

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def accepted(self, request: GenerationRequest) -> None:
        """Say what was asked for."""
        if not self._tracing.is_on:
            return
        self._tracing.annotate(
            {
                "aloraserve.kind": request.kind,
                "aloraserve.adapter": request.call.adapter or "",
                "aloraserve.prompt_tokens": request.prompt_tokens,
            }
        )

    def placed(self, request: GenerationRequest, placement: Placement) -> None:
        """Leave the decision's span."""
        if self._tracing.is_on:
            now = now_s()
            taken_s = placement.lookup_s + placement.policy_s + placement.claim_s
            self._tracing.record("decide", now - taken_s, now, decision_attributes(placement))

    def answered(self, generation: Generation) -> None:
        """Say how it was served."""
        if not self._tracing.is_on:
            return
        self._tracing.annotate(
            {
                "aloraserve.replica": generation.label,
                "aloraserve.cached_tokens": generation.cached_tokens,
                "aloraserve.ttft_s": generation.ttft_s,
            }
        )
