"""Outcomes of intrinsics as answers carry them."""

from __future__ import annotations

from typing import Any

from aloraserve.serving.intrinsics.outcome import GuardVerdict, IntrinsicOutcome
from aloraserve.wire import reply_for
from aloraserve.wire.intrinsic_results import GuardResult, IntrinsicResult, IntrinsicUsage

DIGITS = 6
"""Of probabilities: what is beyond them differs with the batch."""


def result_of(outcome: IntrinsicOutcome) -> IntrinsicResult:
    """Return an intrinsic's outcome for the client."""
    return IntrinsicResult(**_fields(outcome))


def guard_result_of(verdict: GuardVerdict) -> GuardResult:
    """Return a guard's verdict for the client."""
    fields = _fields(verdict.outcome)
    return GuardResult(**fields, threshold=verdict.rule.threshold, refused=verdict.is_refusal)


def refusal_of(verdict: GuardVerdict) -> str:
    """Return a refusal in words."""
    rule = verdict.rule
    return (
        f"refused by the guard {verdict.outcome.name!r}: probability {verdict.probability:.3f}, which is "
        f"{'at least' if rule.refuses == 'above' else 'at most'} its threshold {rule.threshold:g}"
    )


def _fields(outcome: IntrinsicOutcome) -> dict[str, Any]:
    return {
        "id": outcome.call_id,
        "name": outcome.name,
        "time_ms": _ms(outcome.total_s),
        **(_value(outcome) if outcome.error is None else _error(outcome.error)),
        **_facts(outcome),
    }


def _value(outcome: IntrinsicOutcome) -> dict[str, Any]:
    found = outcome.value
    if found is None:
        return {"status": "ok"}
    chances = found.probabilities
    return {
        "status": "ok",
        "value": found.value,
        "probability": None if found.probability is None else round(found.probability, DIGITS),
        "probabilities": None if chances is None else {name: round(chance, DIGITS) for name, chance in chances.items()},
    }


def _error(error: Exception) -> dict[str, Any]:
    reply = reply_for(error)
    return {"status": "error", "error": reply.body["error"], "status_code": reply.status}


def _facts(outcome: IntrinsicOutcome) -> dict[str, Any]:
    facts = outcome.facts
    if facts is None:
        return {}
    return {
        "adapter": facts.adapter,
        "text": facts.text,
        "finish_reason": facts.finish_reason,
        "usage": IntrinsicUsage(
            prompt_tokens=facts.prompt_tokens,
            cached_tokens=facts.cached_tokens,
            completion_tokens=facts.completion_tokens,
        ),
        "replica": facts.replica,
        "ttft_ms": _ms(facts.ttft_s),
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
