"""Response headers that say how a call was served."""

from __future__ import annotations

from aloraserve.serving.generation import Generation

MAX_REASON_CHARACTERS = 400


def serving_headers(generation: Generation) -> dict[str, str]:
    """Return what a client may want to know of how its call was served."""
    return (
        _savings(generation)
        | dict(generation.ticket.headers)
        | _reason(generation)
        | {
            "x-aloraserve-replica": generation.label,
            "x-aloraserve-kind": generation.request.kind,
            "x-aloraserve-cached-tokens": str(generation.cached_tokens),
            "x-aloraserve-prompt-tokens": str(generation.request.prompt_tokens),
            "x-aloraserve-ttft-ms": f"{generation.ttft_s * 1000:.1f}",
            "x-aloraserve-prefill-ms": f"{generation.prefill_s * 1000:.1f}",
            "x-aloraserve-policy": generation.decision.policy,
        }
    )


def shown_reason(generation: Generation) -> str:
    """Return why the replica was chosen, which is of all tenants' load: nothing for one of them."""
    caller = generation.request.origin.caller
    if caller.tenant is not None and not caller.is_admin:
        return ""
    return generation.reason[:MAX_REASON_CHARACTERS]


def _reason(generation: Generation) -> dict[str, str]:
    reason = shown_reason(generation).encode("latin-1", "replace").decode("latin-1")
    return {"x-aloraserve-reason": reason} if reason else {}


def _savings(generation: Generation) -> dict[str, str]:
    savings = generation.savings
    if savings is None:
        return {}
    return {
        "x-aloraserve-saved-ttft-ms": f"{savings.saved_s * 1000:.1f}",
        "x-aloraserve-counterfactual-ttft-ms": f"{(generation.ttft_s + savings.saved_s) * 1000:.1f}",
        "x-aloraserve-savings-confidence": f"{savings.confidence:.2f}",
    }
