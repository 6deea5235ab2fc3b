"""A routing policy of one's own: a replica that holds half of the prompt, else the shortest queue.

    PYTHONPATH=examples .venv/bin/aloraserve up --policy own_policy:WarmOrShortest

A policy orders replicas and does no I/O. The router has asked the directory before and claims the choice after it.
"""

from __future__ import annotations

from collections.abc import Sequence

from aloraserve.directory.base import Candidate
from aloraserve.routing.base import Call, Decision, Estimate
from aloraserve.routing.cost_model import CostModel


class WarmOrShortest:
    """Prefers replicas that hold at least half of the prompt; among equals the shortest prefill queue wins.

    Args:
        costs: estimates what a call would take on each replica.
    """

    name = "warm-or-shortest"

    def __init__(self, costs: CostModel) -> None:
        self._costs = costs

    def decide(self, call: Call, candidates: Sequence[Candidate]) -> Decision:
        """Return all candidates, best first, and the reason that clients read in ``x-aloraserve-reason``."""
        if not candidates:
            return Decision(self.name, "no replica is known", ())

        def is_cold(estimate: Estimate) -> bool:
            return 2 * estimate.overlap_tokens < call.prompt_tokens

        estimates = [self._costs.estimate(call, candidate) for candidate in candidates]
        # Two gateways that see the same fleet choose alike: the last part of the key decides ties by name.
        estimates.sort(key=lambda estimate: (is_cold(estimate), estimate.queued_tokens, estimate.replica))
        best = estimates[0]
        reason = "has the shortest queue" if is_cold(best) else f"holds {best.overlap_tokens} tokens"
        return Decision(self.name, reason, tuple(estimates))
