"""Result of the router: a decision and the claim that goes with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from aloraserve.directory.base import Candidate, ReplicaState
from aloraserve.routing.base import Decision


class ClaimOutcome(StrEnum):
    """Outcome of a claim."""

    CLAIMED = "claimed"
    """Recorded at once."""
    CONFLICT = "conflict"
    """Recorded after another gateway's claim was learned of."""
    MOVED = "moved"
    """Recorded for another replica than the first in rank."""
    FAILED = "failed"
    """Not recorded, or not known to be."""
    NONE = "none"
    """Nothing to record: no directory, or no known replica."""


class FallbackCause(StrEnum):
    """Why a decision was made without the directory; the values are labels of metrics and spans."""

    SLOW = "slow"
    UNREACHABLE = "unreachable"
    BREAKER_OPEN = "breaker_open"
    NO_REPLICA = "no_replica"

    def message(self, budget_s: float) -> str:
        """Return the cause in words, for reasons and receipts.

        Args:
            budget_s: how long the decision waited for the directory.
        """
        return _MESSAGES[self].format(budget_ms=budget_s * 1000)


# They go to clients, so that a server's address is not part of them.
_MESSAGES = {
    FallbackCause.SLOW: "the directory did not answer within {budget_ms:g} ms",
    FallbackCause.UNREACHABLE: "the directory cannot be reached",
    FallbackCause.BREAKER_OPEN: "directory circuit breaker is open",
    FallbackCause.NO_REPLICA: "the directory has no live replica",
}


@dataclass(frozen=True, slots=True)
class Placement:
    """A decision and the claim that goes with it.

    Args:
        decision: the ordering.
        replica: for whom the call is claimed, empty if nobody is known.
        claim: what became of the claim.
        fallback: why the directory was not used, None if it was, or was not to be.
        fallback_reason: the same in words.
        lookup_s: time that asking the directory took.
        policy_s: time that the policy took.
        claim_s: time that claiming took.
        candidates: all that were decided between, as the directory or what stood in for it knew them; those that the
            policy left out of the ordering included.
        cell: whose replicas the candidates were.
        spilled: whether that is another cell than the call's own.
    """

    decision: Decision
    replica: str = ""
    claim: ClaimOutcome = ClaimOutcome.NONE
    fallback: FallbackCause | None = None
    fallback_reason: str | None = None
    lookup_s: float = 0.0
    policy_s: float = 0.0
    claim_s: float = 0.0
    candidates: Sequence[Candidate] = ()
    cell: int = 0
    spilled: bool = False

    def label(self, replica: str) -> str:
        """Return a replica's short name; its id if it was not a candidate."""
        state = self._state(replica)
        return replica if state is None else state.label or replica

    def incarnation(self, replica: str) -> str:
        """Return the start number that a candidate published, empty if it has not."""
        state = self._state(replica)
        return "" if state is None else state.incarnation

    def held_elsewhere(self, replica: str) -> int:
        """Return how many leading blocks of the prompt a replica other than this one holds, of those that stay."""
        return max((other.held_blocks for other in self.candidates if other.state.replica != replica), default=0)

    def _state(self, replica: str) -> ReplicaState | None:
        # A table of all would take longer than the one or two questions.
        return next((candidate.state for candidate in self.candidates if candidate.state.replica == replica), None)
