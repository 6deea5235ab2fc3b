"""Receipts of decisions: why, what was promised, and what came of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from aloraserve.routing.base import Call, Estimate
from aloraserve.routing.placement import ClaimOutcome, Placement

MAX_CANDIDATES = 16
DEFAULT_RECEIPTS = 1024


class Outcome(StrEnum):
    """Outcome of an attempt to have a call answered."""

    ANSWERED = "answered"
    LOST = "lost"
    """The replica was lost before its first chunk."""
    ENGINE_ENDED = "engine-ended"
    """Its engine ended, or was killed because it hung, before its first chunk."""
    CUT_SHORT = "cut-short"
    """The replica was lost after its first chunk."""
    UNAVAILABLE = "unavailable"
    """The replica cannot have the version of the adapter that is asked for."""
    REFUSED = "refused"
    """The engine does not accept the call."""
    OVERLOADED = "overloaded"
    """No replica took the call."""
    CANCELLED = "cancelled"
    """The client went away, or the call's time was over."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One replica that a call was sent to, or that was to get it.

    Args:
        replica: its id, empty if none took the call.
        label: its short name.
        claim: what became of the claim for it.
        outcome: what became of the attempt.
    """

    replica: str
    label: str
    claim: ClaimOutcome
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Answered:
    """How the engine answered.

    Args:
        cached_tokens: prompt tokens that it did not prefill.
        ttft_s: from the first decision to its first chunk, other attempts included.
        ladder: see :class:`Receipt`, like the next one.
        missed: by cause.
    """

    cached_tokens: int
    ttft_s: float
    ladder: Mapping[str, int] = field(default_factory=dict)
    missed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Receipt:
    """One call's last decision. Holds neither prompts nor token ids nor keys.

    Args:
        request_id: of the call.
        at_s: when it was made, seconds since 1970.
        adapter: its name, None for the base model.
        prompt_tokens: the prompt's length.
        policy: who decided, "fallback" without the directory.
        reason: in words.
        fallback_reason: why the directory was not used, None if it was, or was not to be.
        candidates: the best ``MAX_CANDIDATES`` in order, and the one that answered, if the policy ranked it.
        candidate_count: how many there were, those that the policy did not rank included.
        replica: id of who answered, empty if nobody did.
        label: its short name.
        claim: what became of the claim.
        lookup_ms: time that asking the directory took.
        policy_ms: time that the policy took.
        claim_ms: time that claiming took.
        attempts: all attempts of the call, in order.
        cached_tokens: as the engine counts them, None without an answer.
        ttft_s: as it was, None without an answer.
        regret_s: how much sooner another candidate was expected to answer than this one did; None without an answer
            or another candidate.
        ladder: prompt tokens that would have needed no prefill, from the best that could be to what was
            (:class:`~aloraserve.diagnosis.account.Ladder`); empty without an answer.
        missed: tokens that were prefilled although somebody held them, or had held them, by why
            (:class:`~aloraserve.diagnosis.account.MissCause`).
        estimate_error_s: see :func:`estimate_error_s`; None without an answer, too.
        cell: whose replicas were the candidates.
        spilled: whether that is another cell than the call's own.
    """

    request_id: str
    at_s: float
    adapter: str | None
    prompt_tokens: int
    policy: str
    reason: str
    fallback_reason: str | None
    candidates: tuple[Estimate, ...]
    candidate_count: int
    replica: str
    label: str
    claim: ClaimOutcome
    lookup_ms: float
    policy_ms: float
    claim_ms: float
    attempts: tuple[AttemptRecord, ...]
    cached_tokens: int | None = None
    ttft_s: float | None = None
    regret_s: float | None = None
    ladder: Mapping[str, int] = field(default_factory=dict)
    missed: Mapping[str, int] = field(default_factory=dict)
    estimate_error_s: float | None = None
    cell: int = 0
    spilled: bool = False

    def cut_short(self) -> Receipt:
        """Return it as of an answer that began and was lost."""
        *before, last = self.attempts
        return replace(self, attempts=(*before, replace(last, outcome=Outcome.CUT_SHORT)))

    def as_dict(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return asdict(self) | {"candidates": [candidate._asdict() for candidate in self.candidates]}

    @classmethod
    def of(
        cls,
        request_id: str,
        call: Call,
        placement: Placement,
        attempts: tuple[AttemptRecord, ...],
        answered: Answered | None,
        *,
        at_s: float,
    ) -> Receipt:
        """Return the receipt of a call whose last attempt was made with ``placement``.

        Args:
            request_id: of the call.
            call: what the router knew of it.
            placement: its last one.
            attempts: all of them, the last included; at least one.
            answered: None if nobody answered.
            at_s: seconds since 1970.
        """
        last = attempts[-1]
        estimates = placement.decision.estimates
        return cls(
            request_id=request_id,
            at_s=at_s,
            adapter=call.adapter,
            prompt_tokens=call.prompt_tokens,
            policy=placement.decision.policy,
            reason=placement.decision.reason,
            fallback_reason=placement.fallback_reason,
            candidates=_shown(estimates, last.replica),
            candidate_count=max(len(estimates), len(placement.candidates)),
            replica=last.replica if answered else "",
            label=last.label if answered else "",
            claim=placement.claim,
            lookup_ms=placement.lookup_s * 1000,
            policy_ms=placement.policy_s * 1000,
            claim_ms=placement.claim_s * 1000,
            attempts=attempts,
            cached_tokens=answered.cached_tokens if answered else None,
            ttft_s=answered.ttft_s if answered else None,
            regret_s=_regret_s(estimates, last.replica, answered),
            ladder=answered.ladder if answered else {},
            missed=answered.missed if answered else {},
            estimate_error_s=estimate_error_s(placement, last.replica, answered.ttft_s, is_first=len(attempts) == 1)
            if answered
            else None,
            cell=placement.cell,
            spilled=placement.spilled,
        )


def _shown(estimates: tuple[Estimate, ...], replica: str) -> tuple[Estimate, ...]:
    chosen = tuple(estimate for estimate in estimates[MAX_CANDIDATES:] if estimate.replica == replica)
    return estimates[:MAX_CANDIDATES] + chosen


def _regret_s(estimates: tuple[Estimate, ...], replica: str, answered: Answered | None) -> float | None:
    others = [estimate.expected_ttft_s for estimate in estimates if estimate.replica != replica]
    if answered is None or not others:
        return None
    return max(0.0, answered.ttft_s - min(others))


def estimate_error_s(placement: Placement, replica: str, ttft_s: float, *, is_first: bool) -> float | None:
    """Return the actual TTFT less the one that was expected: how well the estimates are calibrated.

    None where nothing was promised: without the directory, of a replica that published nothing or was not ranked, and
    of a call that another replica was to answer first.

    Args:
        placement: by which the call was sent.
        replica: that answered.
        ttft_s: as it was.
        is_first: whether no other attempt was made before.
    """
    if not is_first or placement.fallback is not None:
        return None
    estimates = placement.decision.estimates
    promised = next((estimate for estimate in estimates if estimate.replica == replica), None)
    if promised is None or promised.unknown_s > 0:
        return None
    return ttft_s - promised.expected_ttft_s


class ReceiptRing:
    """The last receipts, by request id. For one event loop.

    Args:
        size: how many are kept.
    """

    def __init__(self, size: int = DEFAULT_RECEIPTS) -> None:
        if size < 1:
            raise ValueError(f"size is {size}; at least 1 is needed")
        self._size = size
        self._order: deque[Receipt] = deque()
        self._by_id: dict[str, Receipt] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._order)

    def add(self, receipt: Receipt) -> None:
        """Keep a receipt; another one of the same request is replaced, and of too many the oldest goes."""
        if len(self._order) == self._size:
            oldest = self._order.popleft()
            # A later receipt of the same request stays to be found.
            if self._by_id.get(oldest.request_id) is oldest:
                del self._by_id[oldest.request_id]
        self._order.append(receipt)
        self._by_id[receipt.request_id] = receipt

    def replace(self, old: Receipt, new: Receipt) -> None:
        """Put a receipt in the place of one of the same request, unless that is gone or another one came since."""
        if self._by_id.get(old.request_id) is old:
            self._order[self._order.index(old)] = self._by_id[old.request_id] = new

    def get(self, request_id: str) -> Receipt | None:
        """Return the request's last receipt, None if there is none or no longer."""
        return self._by_id.get(request_id)

    def latest(self, limit: int) -> list[Receipt]:
        """Return up to ``limit`` receipts, the newest first, one per request."""
        found: list[Receipt] = []
        for receipt in reversed(self._order):
            if len(found) >= limit:
                break
            if self._by_id.get(receipt.request_id) is receipt:
                found.append(receipt)
        return found
