from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.directory.base import Candidate, ReplicaLoad, ReplicaState
from aloraserve.routing.base import Call, Policy
from aloraserve.routing.expected_ttft import ExpectedTtft
from aloraserve.routing.load import CostModel, overlap_tokens, unpublished
from aloraserve.routing.rendezvous import Rendezvous
from aloraserve.routing.round_robin import RoundRobin

CALL = Call(prompt_tokens=512, block_tokens=16, keys=[bytes([n]) * 16 for n in range(32)])


def candidate(replica: str, *, held: int = 0, claimed: int = 0, tokens: int = 0, **load: Any) -> Candidate:
    blocks = load.pop("blocks", 0)
    state = ReplicaState(
        replica,
        "1",
        f"engine-{replica}",
        ReplicaLoad(prefill_tokens_per_s=1000.0, **load),
        held_blocks=blocks,
    )
    return Candidate(state, held, max(held, claimed), tokens)


def rank(*candidates: Candidate, call: Call = CALL) -> list[str]:
    return ExpectedTtft().decide(call, candidates).rank


def test_the_replica_that_holds_the_prefix_wins() -> None:
    decision = ExpectedTtft().decide(CALL, [candidate("a"), candidate("b", held=30)])
    assert decision.rank == ["b", "a"]
    assert decision.reason == "holds 480 of 512 tokens"
    assert decision.estimates[0].overlap_tokens == 480
    assert decision.estimates[0].expected_ttft_s == pytest.approx(0.032)
    assert decision.estimates[1].expected_ttft_s == pytest.approx(0.512)


def test_one_block_is_enough() -> None:
    assert rank(candidate("a"), candidate("b", held=1)) == ["b", "a"]


def test_a_claimed_prefix_counts_like_a_held_one() -> None:
    assert rank(candidate("a"), candidate("b", claimed=30)) == ["b", "a"]


def test_a_holder_with_a_long_queue_spills() -> None:
    busy = candidate("0", held=30, queued_prefill_tokens=9000)
    decision = ExpectedTtft().decide(CALL, [busy, candidate("1")])
    assert decision.rank == ["1", "0"]
    assert decision.reason == "engine-0 holds 480 tokens but has 9,000 queued"


def test_a_holder_without_a_free_slot_spills() -> None:
    full = candidate("0", held=30, running=4, waiting=4, max_requests=4)
    decision = ExpectedTtft().decide(CALL, [full, candidate("1", running=3, max_requests=4)])
    assert decision.rank == ["1", "0"]
    assert decision.reason == "engine-0 holds 480 tokens but would start later"


def test_claimed_tokens_count_as_queued() -> None:
    assert rank(candidate("a", tokens=100), candidate("b")) == ["b", "a"]


def test_a_faster_replica_wins_when_nobody_holds_anything() -> None:
    fast = Candidate(ReplicaState("z", "1", load=ReplicaLoad(prefill_tokens_per_s=9000.0)))
    assert rank(candidate("a"), fast)[0] == "z"


def test_rates_that_differ_by_noise_tie() -> None:
    noisy = Candidate(ReplicaState("z", "1", load=ReplicaLoad(prefill_tokens_per_s=1010.0), held_blocks=9))
    assert rank(candidate("a"), noisy)[0] == "a"


def test_ties_go_to_the_fewest_requests_then_the_fewest_blocks_then_the_lower_id() -> None:
    assert rank(
        candidate("a", running=1),
        candidate("b", waiting=2),
        candidate("c", blocks=7),
        candidate("e"),
        candidate("d"),
    ) == ["d", "e", "c", "a", "b"]


def test_new_conversations_spread_over_an_idle_fleet() -> None:
    blocks = dict.fromkeys("abc", 0)
    for _ in range(9):
        chosen = rank(*(candidate(name, blocks=count) for name, count in blocks.items()))[0]
        blocks[chosen] += 32
    assert set(blocks.values()) == {96}


def test_a_replica_that_published_nothing_is_reached_when_others_are_busy() -> None:
    assert rank(unpublished("0"), candidate("1")) == ["1", "0"]
    assert rank(unpublished("0"), candidate("1", queued_prefill_tokens=5000)) == ["0", "1"]


def test_nobody_holding_anything_is_said() -> None:
    reason = ExpectedTtft().decide(CALL, [candidate("a")]).reason
    assert reason == "least loaded, no prefix anywhere"


def test_the_last_prompt_token_is_always_prefilled() -> None:
    assert overlap_tokens(CALL, candidate("a", held=99)) == 511
    assert overlap_tokens(Call(0, 16, []), candidate("a", held=1)) == 0


def test_an_unmeasured_rate_is_the_default() -> None:
    costs = CostModel(default_tokens_per_s=100.0)
    state = Candidate(ReplicaState("a", "1"))
    assert costs.estimate(CALL, state).expected_ttft_s == pytest.approx(5.12)


def test_a_slot_is_waited_for_only_where_all_are_taken() -> None:
    costs = CostModel(service_s=2.0)
    assert costs.slot_wait_s(ReplicaLoad(running=3, max_requests=4)) == 0
    assert costs.slot_wait_s(ReplicaLoad(running=4, max_requests=4)) == pytest.approx(0.5)
    assert costs.slot_wait_s(ReplicaLoad(running=4, waiting=3, max_requests=4)) == pytest.approx(2.0)
    assert costs.slot_wait_s(ReplicaLoad(running=99)) == 0


counts = st.integers(0, 10_000)
loads = st.builds(
    ReplicaLoad,
    running=counts,
    waiting=counts,
    queued_prefill_tokens=counts,
    kv_usage=st.floats(0, 1),
    prefill_tokens_per_s=st.floats(0, 1e5),
    max_requests=st.integers(0, 16),
)
fleets = st.lists(
    st.builds(
        Candidate,
        st.builds(ReplicaState, st.text(max_size=3), st.sampled_from(["", "1"]), load=loads, held_blocks=counts),
        st.integers(0, 40),
        st.integers(0, 40),
        counts,
    ),
    max_size=8,
    unique_by=lambda one: one.state.replica,
)
calls = st.builds(
    lambda tokens, keyed: Call(tokens, 16, CALL.keys[: tokens // 16] if keyed else []),
    st.integers(0, 512),
    st.booleans(),
)


@pytest.mark.parametrize("policy", [ExpectedTtft(), RoundRobin(), Rendezvous()], ids=lambda one: one.name)
@given(call=calls, fleet=fleets)
def test_every_candidate_is_ordered_exactly_once(policy: Policy, call: Call, fleet: list[Candidate]) -> None:
    decision = policy.decide(call, fleet)
    assert sorted(decision.rank) == sorted(one.state.replica for one in fleet)
    assert decision.policy == policy.name
    assert decision.reason
    assert all(asdict(estimate)["expected_ttft_s"] >= 0 for estimate in decision.estimates)


@given(call=calls, fleet=fleets, seed=st.randoms(use_true_random=False))
def test_the_order_of_the_candidates_does_not_matter(call: Call, fleet: list[Candidate], seed: Any) -> None:
    shuffled = list(fleet)
    seed.shuffle(shuffled)
    for policy in (ExpectedTtft(), Rendezvous()):
        assert policy.decide(call, fleet).rank == policy.decide(call, shuffled).rank


@given(call=calls, fleet=fleets.filter(len))
def test_the_first_is_within_a_tie_of_the_best(call: Call, fleet: list[Candidate]) -> None:
    estimates = ExpectedTtft(tie_tokens=0, tie_share=0.1).decide(call, fleet).estimates
    best_s = min(estimate.expected_ttft_s for estimate in estimates)
    assert estimates[0].expected_ttft_s <= best_s * 1.1 + 1e-9
