"""Consistent hashing of the client's session: the simple baseline that is hardest to beat."""

from __future__ import annotations

from collections.abc import Sequence

from aloraserve.directory.base import Candidate
from aloraserve.routing.base import Call, Decision
from aloraserve.routing.cost_model import CostModel
from aloraserve.routing.rendezvous import conversation, weight


class SessionHash:
    """See :class:`~aloraserve.routing.base.Policy`: in the order of the weight of (session, replica), which moves only
    a lost replica's sessions. Neither load nor holdings count. Without a session id the conversation's name stands for
    it.

    Args:
        costs: for the estimates that go with the order.
    """

    name = "session-hash"

    def __init__(self, costs: CostModel | None = None) -> None:
        self._costs = costs or CostModel()

    def decide(self, call: Call, candidates: Sequence[Candidate]) -> Decision:
        """Order ``candidates`` by hash."""
        if not candidates:
            return Decision(self.name, "no replica is known", ())
        name = conversation(call)
        ordered = sorted(
            candidates, key=lambda candidate: (weight(name, candidate.state.replica), candidate.state.replica)
        )
        estimates = tuple(self._costs.estimate(call, candidate) for candidate in ordered)
        named_by = "the conversation" if call.session is None else "the session"
        return Decision(self.name, f"by hash of {named_by}", estimates)
