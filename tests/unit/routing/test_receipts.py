from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.directory.base import Candidate, ReplicaState
from aloraserve.routing.base import Call, Decision, Estimate
from aloraserve.routing.placement import ClaimOutcome, FallbackCause, Placement
from aloraserve.routing.receipts import (
    MAX_CANDIDATES,
    Answered,
    AttemptRecord,
    Outcome,
    Receipt,
    ReceiptRing,
    estimate_error_s,
)

KEY = b"secret-block-key"
CALL = Call(64, 16, [KEY], adapter="safety", session="secret-session")


def receipt(
    request_id: str = "r",
    *,
    count: int = 3,
    left_out: int = 0,
    replica: str = "0",
    ttft_s: float | None = 0.5,
    claim: ClaimOutcome = ClaimOutcome.CLAIMED,
) -> Receipt:
    estimates = [Estimate(str(number), f"engine-{number}", 0.1 * (number + 1), 48, 0) for number in range(count)]
    states = [ReplicaState(str(number), "1", f"engine-{number}") for number in range(count + left_out)]
    placement = Placement(
        Decision("expected-ttft", "holds 48 of 64 tokens", tuple(estimates)),
        "0",
        claim,
        lookup_s=0.001,
        policy_s=0.002,
        claim_s=0.003,
        candidates=[Candidate(state) for state in states],
    )
    answered = None if ttft_s is None else Answered(48, ttft_s)
    outcome = Outcome.LOST if answered is None else Outcome.ANSWERED
    attempt = AttemptRecord(replica, placement.label(replica), placement.claim, outcome)
    return Receipt.of(request_id, CALL, placement, (attempt,), answered, at_s=1.0)


def test_it_says_what_was_decided_and_what_came_of_it() -> None:
    one = receipt()
    assert (one.replica, one.label, one.cached_tokens, one.ttft_s) == ("0", "engine-0", 48, 0.5)
    assert (one.policy, one.claim, one.adapter, one.prompt_tokens) == ("expected-ttft", "claimed", "safety", 64)
    assert (one.lookup_ms, one.policy_ms, one.claim_ms) == (1.0, 2.0, 3.0)


def test_regret_is_what_another_candidate_would_have_saved() -> None:
    assert receipt(ttft_s=0.5).regret_s == pytest.approx(0.3)
    assert receipt(ttft_s=0.15).regret_s == 0
    assert receipt(ttft_s=0.5, replica="1").regret_s == pytest.approx(0.4)
    assert receipt(count=1).regret_s is None
    assert receipt(ttft_s=None).regret_s is None


def test_the_error_of_the_estimate_is_of_the_replica_that_answered() -> None:
    assert receipt(ttft_s=0.5).estimate_error_s == pytest.approx(0.4)
    assert receipt(ttft_s=0.05).estimate_error_s == pytest.approx(-0.05)
    assert receipt(ttft_s=0.5, replica="1").estimate_error_s == pytest.approx(0.3)
    assert receipt(ttft_s=None).estimate_error_s is None
    assert receipt(count=16, left_out=84, replica="90").estimate_error_s is None, "it was not ranked"


def test_nothing_was_expected_after_a_lost_attempt_by_the_fallback_or_of_an_unknown_replica() -> None:
    known, unknown = Estimate("0", "engine-0", 0.1, 0, 0), Estimate("0", "engine-0", 1.1, 0, 0, unknown_s=1.0)
    placement = Placement(Decision("p", "", (known,)), "0", ClaimOutcome.NONE)
    assert estimate_error_s(placement, "0", 0.5, is_first=True) == pytest.approx(0.4)
    assert estimate_error_s(placement, "0", 0.5, is_first=False) is None
    assert estimate_error_s(replace(placement, fallback=FallbackCause.SLOW), "0", 0.5, is_first=True) is None
    assert estimate_error_s(replace(placement, decision=Decision("p", "", (unknown,))), "0", 0.5, is_first=True) is None


def test_without_an_answer_there_is_nobody_to_name() -> None:
    one = receipt(ttft_s=None)
    assert (one.replica, one.label, one.cached_tokens, one.ttft_s) == ("", "", None, None)
    assert one.attempts[0].outcome == "lost"


def test_the_best_candidates_are_kept_and_the_one_that_answered() -> None:
    one = receipt(count=40, replica="30")
    assert [shown.replica for shown in one.candidates] == [*map(str, range(MAX_CANDIDATES)), "30"]
    assert one.candidate_count == 40
    assert len(receipt(count=40, replica="3").candidates) == MAX_CANDIDATES


def test_those_that_the_policy_did_not_rank_count_and_have_their_names() -> None:
    one = receipt(count=16, left_out=84, replica="90")
    assert (one.candidate_count, len(one.candidates), one.label) == (100, 16, "engine-90")


def test_an_answer_that_was_cut_short_says_so_if_nothing_newer_is_there() -> None:
    ring, first = ReceiptRing(2), receipt()
    ring.add(first)
    ring.replace(first, first.cut_short())
    found = ring.get("r")
    assert found is not None
    assert [attempt.outcome for attempt in found.attempts] == ["cut-short"]
    assert ring.latest(5) == [found]
    later = receipt()
    ring.add(later)
    ring.replace(found, first)
    assert ring.get("r") is later
    ring.add(receipt("other"))
    ring.add(receipt("another"))
    ring.replace(later, first)
    assert ring.get("r") is None


def test_it_is_json_and_holds_no_keys_and_no_session() -> None:
    text = json.dumps(receipt().as_dict())
    assert "secret" not in text
    assert KEY.hex() not in text
    assert json.loads(text)["candidates"][0]["overlap_tokens"] == 48


def test_a_ring_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="size is 0"):
        ReceiptRing(0)


@given(ids=st.lists(st.sampled_from("abcdef")), size=st.integers(1, 4))
def test_the_ring_holds_the_last_of_each_request_among_the_last(ids: list[str], size: int) -> None:
    ring = ReceiptRing(size)
    added = [receipt(request_id) for request_id in ids]
    for one in added:
        ring.add(one)
    kept = added[-size:]
    wanted = {one.request_id: one for one in kept}
    assert len(ring) == len(kept)
    for request_id in "abcdef":
        assert ring.get(request_id) is wanted.get(request_id)
    latest = ring.latest(100)
    assert sorted(one.request_id for one in latest) == sorted(wanted)
    assert latest == [one for one in reversed(kept) if wanted[one.request_id] is one]
    assert ring.latest(1) == latest[:1]
    assert len(ring._by_id) <= size
