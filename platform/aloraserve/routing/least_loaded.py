"""The plainest load-aware policy: whoever has the fewest requests, whatever it holds."""

from __future__ import annotations

from collections.abc import Sequence

from aloraserve.directory.base import Candidate
from aloraserve.routing.base import Call, Decision
from aloraserve.routing.cost_model import CostModel, is_published, queued_tokens, requests


class LeastLoaded:
    """See :class:`~aloraserve.routing.base.Policy`; of equally many requests the shortest queue, and who published
    nothing last.

    Args:
        costs: for the estimates that go with the order.
    """

    name = "least-loaded"

    def __init__(self, costs: CostModel | None = None) -> None:
        self._costs = costs or CostModel()

    def decide(self, call: Call, candidates: Sequence[Candidate]) -> Decision:
        """Order ``candidates`` by load."""
        if not candidates:
            return Decision(self.name, "no replica is known", ())
        ordered = sorted(candidates, key=by_load)
        estimates = tuple(self._costs.estimate(call, candidate) for candidate in ordered)
        return Decision(self.name, f"has {requests(ordered[0]):,} requests, the fewest", estimates)


def by_load(candidate: Candidate) -> tuple[bool, int, int, str]:
    """Return a sort key: the less loaded, the lower."""
    return not is_published(candidate), requests(candidate), queued_tokens(candidate), candidate.state.replica
