"""What holds for every policy, and each plain one's rule."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.blocks import KeySpace
from aloraserve.directory.base import Candidate, ReplicaLoad, ReplicaState
from aloraserve.routing.base import Call
from aloraserve.routing.cost_model import unpublished
from aloraserve.routing.expected_ttft import ExpectedTtft, ExpectedTtftTuning
from aloraserve.routing.policies import POLICIES, check_policy, make_policy
from aloraserve.routing.power_of_two import PowerOfTwo
from aloraserve.routing.rendezvous import Rendezvous

SPACE = KeySpace("model", "tokenizer", 16)
CALL = Call(prompt_tokens=512, block_tokens=16, keys=SPACE.keys([7] * 512))
STATELESS = [name for name in POLICIES if name not in ("power-of-two", "round-robin")]


def candidate(replica: str, *, held: int = 0, tokens: int = 0, claims: int = 0, **load: Any) -> Candidate:
    return Candidate(ReplicaState(replica, "1", load=ReplicaLoad(**load)), held, held, tokens, held, claims)


def rank(policy: str, *candidates: Candidate, call: Call = CALL) -> list[str]:
    return make_policy(policy).decide(call, candidates).rank


def test_the_names_are_the_policies_own() -> None:
    assert set(POLICIES) == {
        "expected-ttft", "longest-prefix", "session-hash", "least-loaded", "power-of-two", "round-robin",
    }  # fmt: skip
    assert all(make_policy(name).name == name for name in POLICIES)


def test_an_unknown_policy_is_refused_with_the_known_ones() -> None:
    for refuse in (check_policy, make_policy):
        with pytest.raises(ValueError, match=r"expected-ttft, longest-prefix.* is needed"):
            refuse("random")


def test_the_longest_prefix_wins_however_busy_it_is() -> None:
    busy = candidate("b", held=3, running=90, queued_prefill_tokens=10**6)
    assert rank("longest-prefix", candidate("a", held=2), busy, candidate("c")) == ["b", "a", "c"]


def test_of_equal_prefixes_the_least_loaded_wins_then_the_lower_id() -> None:
    fleet = [candidate("a", held=2, running=1), candidate("c", held=2), candidate("b", held=2)]
    assert rank("longest-prefix", *fleet) == ["b", "c", "a"]


def test_the_least_loaded_wins_whatever_is_held() -> None:
    fleet = [candidate("a", held=32, running=2), candidate("b", running=1), unpublished("0")]
    assert rank("least-loaded", *fleet) == ["b", "a", "0"]


def test_claims_and_queues_are_load() -> None:
    fleet = [
        candidate("a", claims=1),
        candidate("b", tokens=9),
        candidate("c", queued_prefill_tokens=10),
        candidate("d"),
    ]
    assert rank("least-loaded", *fleet) == ["d", "b", "c", "a"]


def test_a_session_stays_whatever_its_prompts_are() -> None:
    fleet = [candidate(name) for name in "abcde"]
    for number in range(30):
        calls = [replace(CALL, keys=SPACE.keys([turn] * 64), session=f"s{number}") for turn in range(4)]
        assert len({rank("session-hash", *fleet, call=call)[0] for call in calls}) == 1


def test_sessions_spread_over_the_fleet_and_a_lost_replica_moves_only_its_own() -> None:
    fleet = [candidate(name) for name in "abcde"]
    calls = [replace(CALL, session=f"s{number}") for number in range(500)]
    before = [rank("session-hash", *fleet, call=call)[0] for call in calls]
    counts = Counter(before)
    assert len(counts) == 5
    assert max(counts.values()) < 160
    after = [rank("session-hash", *fleet[1:], call=call)[0] for call in calls]
    assert all(now == then for now, then in zip(after, before, strict=True) if then != "a")


def test_without_a_session_the_name_that_the_gateway_gave_stands_for_a_conversation() -> None:
    fleet = [candidate(name) for name in "abcde"]
    for conversation in (b"one", b"other"):
        short, long = (Call(tokens, 16, SPACE.keys([3] * tokens), conversation=conversation) for tokens in (64, 640))
        assert rank("session-hash", *fleet, call=short) == rank("session-hash", *fleet, call=long)
    named = [replace(CALL, conversation=b"%d" % number) for number in range(40)]
    assert len({rank("session-hash", *fleet, call=call)[0] for call in named}) == len(fleet)


def test_of_two_drawn_the_less_loaded_wins_and_the_busiest_never_does() -> None:
    policy = PowerOfTwo(seed=1)
    fleet = [candidate(name, running=load) for load, name in enumerate("abcd")]
    first = Counter(policy.decide(CALL, fleet).rank[0] for _ in range(600))
    assert set(first) == set("abc")
    assert first["a"] > first["b"] > first["c"]


def test_the_same_seed_draws_the_same() -> None:
    fleet = [candidate(name) for name in "abcdef"]
    one, same, other = (PowerOfTwo(seed=seed) for seed in (1, 1, 2))
    ranks = [[policy.decide(CALL, fleet).rank[0] for _ in range(20)] for policy in (one, same, other)]
    assert ranks[0] == ranks[1] != ranks[2]


counts = st.integers(0, 10_000)
loads = st.builds(
    ReplicaLoad,
    running=counts,
    waiting=counts,
    queued_prefill_tokens=counts,
    kv_usage=st.floats(0, 1),
    prefill_tokens_per_s=st.floats(0, 1e5),
    max_requests=st.integers(0, 16),
    kv_tokens=counts,
    adapter_slots=st.integers(0, 3),
    decode_step_s=st.floats(0, 1),
)
fleets = st.lists(
    st.builds(
        Candidate,
        st.builds(ReplicaState, st.text(max_size=3), st.sampled_from(["", "1"]), load=loads, held_blocks=counts),
        st.integers(0, 40),
        st.integers(0, 40),
        counts,
        st.integers(0, 40),
        st.integers(0, 5),
    ),
    max_size=8,
    unique_by=lambda one: one.state.replica,
)
calls = st.builds(
    lambda tokens, keyed, adapter, session: Call(
        tokens, 16, CALL.keys[: tokens // 16] if keyed else [], adapter, session
    ),
    st.integers(0, 512),
    st.booleans(),
    st.sampled_from([None, "x"]),
    st.sampled_from([None, "", "s", "\ud800"]),
)


@pytest.mark.parametrize("policy", [*map(make_policy, POLICIES), Rendezvous()], ids=lambda one: one.name)
@given(call=calls, fleet=fleets)
def test_every_candidate_is_ordered_exactly_once(policy: Any, call: Call, fleet: list[Candidate]) -> None:
    decision = policy.decide(call, fleet)
    assert sorted(decision.rank) == sorted(one.state.replica for one in fleet)
    assert decision.policy == policy.name
    assert decision.reason
    assert all(estimate.expected_ttft_s >= 0 for estimate in decision.estimates)


@pytest.mark.parametrize("name", [*POLICIES, "rendezvous"])
@given(call=calls, fleet=fleets, seed=st.randoms(use_true_random=False))
def test_the_order_of_the_candidates_does_not_matter(name: str, call: Call, fleet: list[Candidate], seed: Any) -> None:
    shuffled = list(fleet)
    seed.shuffle(shuffled)
    one, other = (Rendezvous() if name == "rendezvous" else make_policy(name, seed=3) for _ in range(2))
    assert one.decide(call, fleet).rank == other.decide(call, shuffled).rank


@pytest.mark.parametrize("name", STATELESS)
def test_two_gateways_that_see_the_same_choose_the_same(name: str) -> None:
    fleet = [candidate(letter, held=number % 3, running=number % 2) for number, letter in enumerate("abcdef")]
    assert rank(name, *fleet) == rank(name, *fleet)


@given(call=calls, fleet=fleets.filter(len))
def test_the_first_is_within_a_tie_of_the_best(call: Call, fleet: list[Candidate]) -> None:
    charges = {"duplicate_share": 0.0, "duplicate_most": 0.0, "eviction_share": 0.0}
    tuning = ExpectedTtftTuning(tie_tokens=0, tie_share=0.1, **charges)
    estimates = ExpectedTtft(tuning=tuning).decide(call, fleet).estimates
    best_s = min(estimate.expected_ttft_s for estimate in estimates)
    assert estimates[0].expected_ttft_s <= best_s * 1.1 + 1e-9
