"""Claims of this process that are on their way to the directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from aloraserve.blocks import BlockKey
from aloraserve.directory.base import Candidate

MAX_PENDING = 1024


@dataclass(slots=True)
class _Claim:
    replica: str
    keys: Sequence[BlockKey]
    tokens: int


class PendingClaims:
    """Own claims from the decision until the directory has them, which shows them from then on. For one event loop.

    Without them a burst of calls would decide on one stale answer.
    """

    def __init__(self) -> None:
        self._claims: dict[str, _Claim] = {}

    def __len__(self) -> int:
        """How many claims are on their way."""
        return len(self._claims)

    def add(self, claim_id: str, replica: str, keys: Sequence[BlockKey], tokens: int) -> None:
        """Note a claim that is about to be made; of more than ``MAX_PENDING`` the oldest is forgotten."""
        self._claims[claim_id] = _Claim(replica, keys, tokens)
        if len(self._claims) > MAX_PENDING:
            del self._claims[next(iter(self._claims))]

    def drop(self, claim_id: str) -> None:
        """Forget a claim that the directory has, or has not taken."""
        self._claims.pop(claim_id, None)

    def added_to(self, candidates: Sequence[Candidate], keys: Sequence[BlockKey]) -> list[Candidate]:
        """Return what a lookup of ``keys`` has just found, with the claims that the directory lacks."""
        by_replica: dict[str, list[_Claim]] = {}
        for claim in self._claims.values():
            by_replica.setdefault(claim.replica, []).append(claim)
        if not by_replica:
            return list(candidates)
        return [_with(candidate, by_replica.get(candidate.state.replica, ()), keys) for candidate in candidates]


def _with(candidate: Candidate, claims: Sequence[_Claim], keys: Sequence[BlockKey]) -> Candidate:
    if not claims:
        return candidate
    return replace(
        candidate,
        claimed_blocks=max(candidate.claimed_blocks, *(common_blocks(keys, claim.keys) for claim in claims)),
        claimed_tokens=candidate.claimed_tokens + sum(claim.tokens for claim in claims),
        claims=candidate.claims + len(claims),
    )


def common_blocks(keys: Sequence[BlockKey], others: Sequence[BlockKey]) -> int:
    """Return how many leading blocks two chains share; keys are chained, so halving finds it."""
    low, high = 0, min(len(keys), len(others))
    while low < high:
        middle = (low + high + 1) // 2
        if keys[middle - 1] == others[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low
