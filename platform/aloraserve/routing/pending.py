"""Decisions of this process that the directory may not show yet."""

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
    done_at: float | None = None


class PendingClaims:
    """Own claims from the decision until lookups show them, so that a burst of calls does not decide on one stale
    answer. For one event loop.

    A lookup that began before a claim was recorded may lack it: for that one it is added here. It may also have it
    already, and then it counts twice for as long as that lookup's decision takes.

    Args:
        keep_s: how long a recorded claim is kept: no lookup takes longer.
    """

    def __init__(self, *, keep_s: float) -> None:
        self._keep_s = keep_s
        self._claims: dict[str, _Claim] = {}

    def add(self, claim_id: str, replica: str, keys: Sequence[BlockKey], tokens: int) -> None:
        """Note a claim that is about to be made; of more than ``MAX_PENDING`` the oldest is forgotten."""
        self._claims[claim_id] = _Claim(replica, keys, tokens)
        if len(self._claims) > MAX_PENDING:
            del self._claims[next(iter(self._claims))]

    def done(self, claim_id: str, now: float) -> None:
        """Note that the directory has the claim."""
        claim = self._claims.get(claim_id)
        if claim is not None:
            claim.done_at = now

    def drop(self, claim_id: str) -> None:
        """Forget a claim that was not recorded, or was withdrawn."""
        self._claims.pop(claim_id, None)

    def added_to(
        self, candidates: Sequence[Candidate], keys: Sequence[BlockKey], *, looked_up_at: float, now: float
    ) -> list[Candidate]:
        """Return what a lookup of ``keys`` found, with the claims that it may lack.

        Args:
            candidates: found.
            keys: looked up.
            looked_up_at: when the lookup began.
            now: on the same clock.
        """
        self._forget(now)
        unseen = [claim for claim in self._claims.values() if claim.done_at is None or claim.done_at > looked_up_at]
        if not unseen:
            return list(candidates)
        by_replica: dict[str, list[_Claim]] = {}
        for claim in unseen:
            by_replica.setdefault(claim.replica, []).append(claim)
        return [_with(candidate, by_replica.get(candidate.state.replica, ()), keys) for candidate in candidates]

    def _forget(self, now: float) -> None:
        old = [
            claim_id
            for claim_id, claim in self._claims.items()
            if claim.done_at is not None and now - claim.done_at > self._keep_s
        ]
        for claim_id in old:
            del self._claims[claim_id]


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
