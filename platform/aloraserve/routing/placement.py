"""What the router hands back: a decision and the claim that goes with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from aloraserve.routing.base import Decision

ClaimOutcome = Literal["claimed", "conflict", "moved", "failed", "none"]
"""What became of a claim: recorded at once; recorded after another gateway's claim was learned of; recorded for another
replica than the first in rank; not recorded, or not known to be; nothing to record (no directory, no known replica)."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A decision and the claim that goes with it.

    Args:
        decision: the ordering.
        incarnations: start numbers of the candidates that published theirs.
        replica: for whom the call is claimed, empty if nobody is known.
        claim: what became of the claim.
        fallback: why the directory was not used, None if it was, or was not to be.
        labels: short names of all candidates, those that the policy left out of the ordering included.
        lookup_s: time that asking the directory took.
        policy_s: time that the policy took.
        claim_s: time that claiming took.
    """

    decision: Decision
    incarnations: Mapping[str, str] = field(default_factory=dict)
    replica: str = ""
    claim: ClaimOutcome = "none"
    fallback: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    lookup_s: float = 0.0
    policy_s: float = 0.0
    claim_s: float = 0.0

    def label(self, replica: str) -> str:
        """Return a replica's short name; its id if it was no candidate."""
        return self.labels.get(replica, replica)
