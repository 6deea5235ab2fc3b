"""A routing decision in the words of metrics and spans."""

from __future__ import annotations

from aloraserve.routing.placement import Placement
from aloraserve.telemetry.tracing import Value


def decision_attributes(placement: Placement) -> dict[str, Value]:
    """Return a decision's receipt as attributes of its span: who, why, and what was expected of the first in rank."""
    decision = placement.decision
    attributes: dict[str, Value] = {
        "aloraserve.policy": decision.policy,
        "aloraserve.reason": decision.reason,
        "aloraserve.candidates": len(decision.estimates),
        "aloraserve.claim": placement.claim,
        "aloraserve.lookup_ms": placement.lookup_s * 1000,
        "aloraserve.policy_ms": placement.policy_s * 1000,
        "aloraserve.claim_ms": placement.claim_s * 1000,
    }
    if placement.fallback is not None:
        attributes["aloraserve.fallback"] = placement.fallback.value
    chosen = next((estimate for estimate in decision.estimates if estimate.replica == placement.replica), None)
    if chosen is not None:
        estimate = chosen._asdict()
        attributes["aloraserve.replica"] = str(estimate.pop("label"))
        del estimate["replica"]
        attributes |= {f"aloraserve.estimate.{part}": value for part, value in estimate.items()}
    return attributes
