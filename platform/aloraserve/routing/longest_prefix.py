"""The plainest cache-aware policy: whoever holds most of the prompt, however busy it is."""

from __future__ import annotations

from collections.abc import Sequence

from aloraserve.directory.base import Candidate
from aloraserve.routing.base import Call, Decision
from aloraserve.routing.cost_model import CostModel, overlap_tokens, requests


class LongestPrefix:
    """See :class:`~aloraserve.routing.base.Policy`; of equal overlaps the one with the fewest requests.

    Args:
        costs: for the estimates that go with the order.
    """

    name = "longest-prefix"

    def __init__(self, costs: CostModel | None = None) -> None:
        self._costs = costs or CostModel()

    def decide(self, call: Call, candidates: Sequence[Candidate]) -> Decision:
        """Order ``candidates`` by overlap."""
        if not candidates:
            return Decision(self.name, "no replica is known", ())
        ordered = sorted(
            candidates,
            key=lambda candidate: (-overlap_tokens(call, candidate), requests(candidate), candidate.state.replica),
        )
        estimates = tuple(self._costs.estimate(call, candidate) for candidate in ordered)
        return Decision(self.name, f"holds {estimates[0].overlap_tokens:,} tokens, the most", estimates)
