"""The cost model: each part of an estimate, by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.directory.base import Candidate, ReplicaLoad, ReplicaState
from aloraserve.routing.base import Call, Estimate
from aloraserve.routing.cost_model import FEW_SAMPLES, CostModel, overlap_tokens, unpublished, with_fleet_rates
from aloraserve.routing.prefill_model import PrefillModel

CALL = Call(prompt_tokens=512, block_tokens=16, keys=[bytes([n]) * 16 for n in range(32)])
ADAPTED = replace(CALL, adapter="safety", version="safety")
COSTS = CostModel(default_tokens_per_s=1000.0, service_s=2.0)


def candidate(
    *,
    held: int = 0,
    fast: int | None = None,
    tokens: int = 0,
    claims: int = 0,
    resident: tuple[str, ...] = (),
    active: tuple[str, ...] = (),
    **load: Any,
) -> Candidate:
    state = ReplicaState("a", "1", "", ReplicaLoad(**load), resident, active_adapters=active)
    return Candidate(state, held, held, tokens, held if fast is None else fast, claims)


def estimate(call: Call = CALL, **given: Any) -> Estimate:
    return COSTS.estimate(call, candidate(**given))


def test_the_last_prompt_token_is_always_prefilled() -> None:
    assert overlap_tokens(CALL, candidate(held=99)) == 511
    assert overlap_tokens(Call(0, 16, []), candidate(held=1)) == 0


def test_without_a_label_the_id_names_a_candidate() -> None:
    assert estimate().label == "a"


def test_an_unmeasured_rate_is_the_default_and_a_measured_one_its_own() -> None:
    assert estimate().prefill_s == pytest.approx(0.512)
    assert estimate(prefill_tokens_per_s=2000.0).prefill_s == pytest.approx(0.256)


def test_a_learned_model_counts_for_more_than_a_rate() -> None:
    learned = {"prefill_fixed_s": 0.01, "prefill_s_per_token": 1e-4, "prefill_s_per_square_token": 1e-6}
    model = PrefillModel(0.01, 1e-4, 1e-6)
    for held in (0, 30):
        found = estimate(held=held, prefill_tokens_per_s=5.0, **learned)
        assert found.prefill_s == pytest.approx(model.seconds(held * 16, 512))
    assert estimate(held=30, **learned).prefill_s > 0.01 + 32e-4, "attention to what is cached costs too"


def test_the_queue_is_what_the_replica_says_and_what_is_claimed() -> None:
    assert estimate(queued_prefill_tokens=500).queue_s == pytest.approx(0.5)
    assert estimate(queued_prefill_tokens=500, queued_prefill_s=0.7).queue_s == pytest.approx(0.7)
    learned = {"prefill_fixed_s": 0.01, "prefill_s_per_token": 1e-3}
    found = estimate(tokens=100, claims=3, **learned)
    assert found.queue_s == pytest.approx(0.1 + 0.03)
    assert found.queued_tokens == 100


def test_answers_that_run_lengthen_each_step_of_the_prefill() -> None:
    costs = replace(COSTS, step_tokens=256)
    assert costs.estimate(CALL, candidate(running=3, decode_step_s=0.02)).decode_s == pytest.approx(0.05)
    queued = candidate(running=3, decode_step_s=0.02, queued_prefill_tokens=256)
    assert costs.estimate(CALL, queued).decode_s == pytest.approx(0.07)
    assert costs.estimate(CALL, candidate(decode_step_s=0.02)).decode_s == 0
    assert costs.estimate(CALL, candidate(running=3)).decode_s == 0


def test_a_slot_is_waited_for_only_where_all_are_taken() -> None:
    assert estimate(running=3, max_requests=4).slot_s == 0
    assert estimate(running=4, max_requests=4).slot_s == pytest.approx(0.5)
    assert estimate(running=4, waiting=3, max_requests=4).slot_s == pytest.approx(2.0)
    assert estimate(running=3, claims=2, max_requests=4).slot_s == pytest.approx(1.0)
    assert estimate(running=99).slot_s == 0


def test_a_learned_service_time_replaces_the_default() -> None:
    assert estimate(running=4, max_requests=4, service_s=8.0).slot_s == pytest.approx(2.0)


def test_an_adapter_slot_is_waited_for_by_an_adapter_that_does_not_run() -> None:
    full = {"adapter_slots": 2, "resident": ("safety", "x", "y"), "active": ("x", "y")}
    assert estimate(ADAPTED, **full).slot_s == pytest.approx(1.0)
    assert estimate(ADAPTED, **full | {"active": ("x", "y", "z")}).slot_s == pytest.approx(2.0)
    assert estimate(ADAPTED, **full | {"active": ("x", "safety")}).slot_s == 0
    assert estimate(ADAPTED, **full | {"active": ("x",)}).slot_s == 0
    assert estimate(ADAPTED, **full | {"adapter_slots": 0}).slot_s == 0
    assert estimate(CALL, **full).slot_s == 0


def test_both_slots_are_waited_for_at_once() -> None:
    found = estimate(ADAPTED, running=4, max_requests=4, adapter_slots=1, active=("x",))
    assert found.slot_s == pytest.approx(2.0)


def test_an_adapter_is_loaded_where_it_is_not_resident() -> None:
    assert estimate(ADAPTED, resident=("x",), adapter_load_s=0.3).adapter_s == pytest.approx(0.3)
    assert estimate(ADAPTED, resident=("x",)).adapter_s == pytest.approx(COSTS.adapter_load_s)
    assert estimate(ADAPTED, resident=("safety",), adapter_load_s=0.3).adapter_s == 0
    assert estimate(CALL, resident=("x",), adapter_load_s=0.3).adapter_s == 0


def test_who_says_nothing_of_adapters_is_not_a_certain_miss() -> None:
    silent = estimate(ADAPTED).adapter_s
    assert 0 < silent < estimate(ADAPTED, adapter_slots=8).adapter_s
    assert COSTS.estimate(ADAPTED, unpublished("a")).adapter_s == 0


def test_blocks_in_a_slower_tier_cost_a_share_of_their_prefill() -> None:
    found = estimate(held=20, fast=10)
    assert found.prefill_s == pytest.approx(0.192)
    assert found.memory_s == pytest.approx(0.2 * 0.16)
    assert estimate(held=20).memory_s == 0
    assert estimate(held=20, fast=0).memory_s < 0.32, "never more than the prefill that it saves"


def test_a_prompt_that_the_cache_has_no_room_for_waits_the_longer_the_more_is_too_much() -> None:
    assert estimate(kv_tokens=2000, kv_usage=0.5).memory_s == 0
    waits = [estimate(kv_tokens=2000, kv_usage=share).memory_s for share in (0.8, 0.9, 1.0)]
    assert 0 < waits[0] < waits[1] < waits[2]
    assert waits[2] == pytest.approx(2.0 * (2000 + 512 - 1900) / 2000)
    held = estimate(kv_tokens=2000, kv_usage=0.8, held=30)
    assert held.memory_s == 0, "what is held needs no new room"


def test_queued_and_claimed_tokens_need_room_too() -> None:
    assert estimate(kv_tokens=2000, kv_usage=0.5, queued_prefill_tokens=900).memory_s > 0
    assert estimate(kv_tokens=2000, kv_usage=0.5, tokens=900).memory_s > 0


def test_without_a_usage_the_tokens_of_its_requests_count() -> None:
    assert estimate(kv_tokens=2000, running_tokens=1900).memory_s > 0
    assert estimate(kv_tokens=2000, running_tokens=1000).memory_s == 0
    assert estimate(running_tokens=1900).memory_s == 0


def test_who_published_nothing_is_charged_for_it() -> None:
    found = COSTS.estimate(CALL, unpublished("a"))
    assert found.unknown_s == COSTS.unpublished_s
    assert estimate().unknown_s == 0


counts = st.integers(0, 1000)
seconds = st.floats(0, 10)
loads = st.builds(
    ReplicaLoad,
    running=counts,
    waiting=counts,
    queued_prefill_tokens=counts,
    kv_usage=st.floats(0, 1),
    prefill_tokens_per_s=st.floats(0, 1e5),
    max_requests=st.integers(0, 16),
    queued_prefill_s=seconds,
    prefill_fixed_s=st.floats(0, 0.1),
    prefill_s_per_token=st.floats(0, 1e-2),
    prefill_s_per_square_token=st.floats(0, 1e-6),
    decode_step_s=seconds,
    kv_tokens=counts,
    running_tokens=counts,
    adapter_slots=st.integers(0, 4),
    adapter_load_s=seconds,
    service_s=seconds,
)
names = st.lists(st.sampled_from(["safety", "x", "y"]), unique=True).map(tuple)
candidates = st.builds(
    lambda load, resident, active, blocks, tokens, claims: Candidate(
        ReplicaState("a", "1", "", load, resident, 0, active), blocks[1], blocks[2], tokens, blocks[0], claims
    ),
    loads,
    names,
    names,
    st.tuples(*[st.integers(0, 32)] * 3).map(sorted),
    counts,
    st.integers(0, 9),
)
calls = st.sampled_from([CALL, ADAPTED])


@given(call=calls, one=candidates)
def test_the_estimate_is_the_sum_of_its_parts_and_none_is_negative(call: Call, one: Candidate) -> None:
    found = CostModel().estimate(call, one)
    parts = found[5:]
    assert min(parts) >= 0
    assert found.expected_ttft_s == pytest.approx(sum(parts))


@given(call=calls, one=candidates, more=st.integers(1, 500))
def test_more_claimed_tokens_are_never_cheaper(call: Call, one: Candidate, more: int) -> None:
    costs = CostModel()
    busier = replace(one, claimed_tokens=one.claimed_tokens + more, claims=one.claims + 1)
    less, much = costs.estimate(call, one), costs.estimate(call, busier)
    # The wait for room alone may shrink: the more is in use, the faster tokens are given back.
    assert much.expected_ttft_s - much.memory_s >= less.expected_ttft_s - less.memory_s - 1e-9


def test_a_call_longer_than_the_cache_waits_for_all_that_is_used_and_no_more() -> None:
    load = ReplicaLoad(prefill_s_per_token=0.001, kv_tokens=100, kv_usage=1e-9, service_s=7.0)
    tiny = CostModel().estimate(CALL, Candidate(ReplicaState("a", "1", load=load)))
    assert tiny.memory_s == pytest.approx(7.0)


@given(call=calls, one=candidates)
def test_a_longer_overlap_in_the_fast_tier_is_never_dearer(call: Call, one: Candidate) -> None:
    costs = CostModel()
    longer = replace(one, held_blocks=32, claimed_blocks=32, fast_blocks=32)
    assert costs.estimate(call, longer).expected_ttft_s <= costs.estimate(call, one).expected_ttft_s + 1e-9


def measured(replica: str, s_per_token: float, samples: int) -> Candidate:
    load = ReplicaLoad(
        prefill_fixed_s=s_per_token,
        prefill_s_per_token=s_per_token,
        prefill_samples=samples,
        queued_prefill_tokens=10,
        queued_prefill_s=10 * s_per_token,
    )
    return Candidate(ReplicaState(replica, "1", load=load))


def rates(*candidates: Candidate) -> list[float]:
    return [one.state.load.prefill_s_per_token for one in with_fleet_rates(candidates)]


def test_a_slow_rate_of_few_samples_counts_as_the_best_that_the_fleet_knows() -> None:
    well, slow, fast = (measured("a", 2e-3, 100), measured("b", 9e-3, 2), measured("c", 1e-3, FEW_SAMPLES - 1))
    assert rates(well, slow, measured("d", 3e-3, 50)) == [2e-3, 2e-3, 3e-3]
    assert rates(slow, fast) == [1e-3, 1e-3], "of many that know little the fastest was disturbed least"
    assert rates(well, fast) == [2e-3, 1e-3]
    corrected = with_fleet_rates([well, slow])[1]
    assert CostModel().estimate(CALL, corrected).queue_s == pytest.approx(0.02), "its queue at that rate too"


def test_rates_of_many_samples_and_those_without_a_number_count_as_they_are() -> None:
    candidates = [measured("a", 2e-3, FEW_SAMPLES), measured("b", 9e-3, 0)]
    assert with_fleet_rates(candidates) is candidates


def answering(inter_token_s: float, running: int = 4) -> Candidate:
    load = ReplicaLoad(running=running, inter_token_s=inter_token_s, prefill_s_per_token=0.001)
    return Candidate(ReplicaState("a", "1", load=load))


def test_a_call_is_charged_for_what_it_does_to_answers_that_are_slow_already() -> None:
    costs = CostModel(tpot_objective_s=0.1, tpot_share=0.1)
    slow = costs.estimate(CALL, answering(0.3))
    assert slow.tpot_s == pytest.approx(0.1 * (0.3 / 0.1 - 1) * 4 * 0.512)
    assert slow.expected_ttft_s == costs.estimate(CALL, answering(0.05)).expected_ttft_s, "it waits no longer for it"


def test_nothing_is_charged_within_the_objective_or_without_one() -> None:
    assert CostModel(tpot_objective_s=0.1).estimate(CALL, answering(0.1)).tpot_s == 0
    assert CostModel(tpot_objective_s=0.0).estimate(CALL, answering(9.0)).tpot_s == 0
    assert CostModel(tpot_objective_s=0.1).estimate(CALL, answering(9.0, running=0)).tpot_s == 0


def test_the_charge_is_never_more_than_the_delay_itself() -> None:
    assert CostModel(tpot_objective_s=0.1).estimate(CALL, answering(900.0)).tpot_s == pytest.approx(4 * 0.512)


def test_of_the_claims_for_an_engine_with_priorities_only_short_ones_are_before_a_call() -> None:
    """Only their sum is known: each counts for as long as the call takes, at most."""
    load = ReplicaLoad(prefill_s_per_token=0.001, ageing=0.05)
    claimed = Candidate(ReplicaState("a", "1", load=load), claimed_tokens=30_000, claims=2)
    assert CostModel().estimate(CALL, claimed).queue_s == pytest.approx(2 * 0.512)
    short = Candidate(ReplicaState("a", "1", load=load), claimed_tokens=200, claims=2)
    assert CostModel().estimate(CALL, short).queue_s == pytest.approx(0.2)
    in_order = Candidate(ReplicaState("a", "1", load=replace(load, ageing=0.0)), claimed_tokens=30_000, claims=2)
    assert CostModel().estimate(CALL, in_order).queue_s == pytest.approx(30.0)
