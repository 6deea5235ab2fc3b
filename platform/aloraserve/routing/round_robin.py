"""The policy that other platforms have: each replica in turn. The baseline that reuse is measured against."""

from __future__ import annotations

from collections.abc import Sequence

from aloraserve.directory.base import Candidate
from aloraserve.routing.base import Call, Decision
from aloraserve.routing.cost_model import CostModel


class RoundRobin:
    """See :class:`~aloraserve.routing.base.Policy`; it counts calls, so two gateways may differ."""

    name = "round-robin"

    def __init__(self, costs: CostModel | None = None) -> None:
        self._costs = costs or CostModel()
        self._turn = 0

    def decide(self, call: Call, candidates: Sequence[Candidate]) -> Decision:
        """Order ``candidates`` by id, starting one further each time."""
        if not candidates:
            return Decision(self.name, "no replica is known", ())
        ordered = sorted(candidates, key=lambda candidate: candidate.state.replica)
        first = self._turn % len(ordered)
        self._turn += 1
        estimates = tuple(self._costs.estimate(call, candidate) for candidate in ordered[first:] + ordered[:first])
        return Decision(self.name, "next in turn, whatever anyone holds", estimates)
