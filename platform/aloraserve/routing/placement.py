"""Result of the router: a decision and the claim that goes with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from aloraserve.directory.base import Candidate
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
        incarnations: start numbers of the candidates that published theirs.
        replica: for whom the call is claimed, empty if nobody is known.
        claim: what became of the claim.
        fallback: why the directory was not used, None if it was, or was not to be.
        fallback_reason: the same in words.
        labels: short names of all candidates, those that the policy left out of the ordering included.
        lookup_s: time that asking the directory took.
        policy_s: time that the policy took.
        claim_s: time that claiming took.
        candidates: all that were decided between, as the directory or what stood in for it knew them.
        cell: whose replicas the candidates were.
        spilled: whether that is another cell than the call's own.
    """

    decision: Decision
    incarnations: Mapping[str, str] = field(default_factory=dict)
    replica: str = ""
    claim: ClaimOutcome = ClaimOutcome.NONE
    fallback: FallbackCause | None = None
    fallback_reason: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    lookup_s: float = 0.0
    policy_s: float = 0.0
    claim_s: float = 0.0
    candidates: Sequence[Candidate] = ()
    cell: int = 0
    spilled: bool = False

    def label(self, replica: str) -> str:
        """Return a replica's short name; its id if it was not a candidate."""
        return self.labels.get(replica, replica)
