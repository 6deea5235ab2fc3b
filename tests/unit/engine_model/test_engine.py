"""The modelled engine's times, computed by hand, and vLLM's rules that they follow from."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from aloraserve.directory.base import anchor
from aloraserve.engine_model.calibration import Calibration
from aloraserve.engine_model.engine import ModelledEngine
from aloraserve.engine_model.engine_request import EngineRequest
from aloraserve.simulation.base import SimulatedCall

MakeCall = Callable[..., SimulatedCall]


@pytest.fixture
def engine(calibration: Calibration) -> ModelledEngine:
    return ModelledEngine(calibration, kv_tokens=calibration.kv_tokens, block_tokens=16)


def finish(engine: ModelledEngine) -> list[EngineRequest]:
    """Run until nothing is left and return the requests in the order in which they ended."""
    ended: list[EngineRequest] = []
    while engine.next_s < math.inf:
        ended += engine.end_step().finished
    return ended


def test_a_cold_prompt_takes_a_step_and_its_tokens(engine: ModelledEngine, make_call: MakeCall) -> None:
    request = engine.submit(make_call(100), 1.0)
    finish(engine)
    assert request.first_token_s == pytest.approx(1.0 + 0.010 + 100 * 0.001)


def test_a_long_prompt_takes_several_steps(engine: ModelledEngine, make_call: MakeCall) -> None:
    request = engine.submit(make_call(600), 0.0)
    finish(engine)
    assert request.first_token_s == pytest.approx(3 * 0.010 + 600 * 0.001)


def test_cached_blocks_are_not_computed_again_but_the_last_token_is(
    engine: ModelledEngine, make_call: MakeCall
) -> None:
    engine.submit(make_call(64), 0.0)
    finish(engine)
    same = engine.submit(make_call(64), 1.0)
    longer = engine.submit(make_call(80), 2.0)
    finish(engine)
    assert same.cached_tokens == 48
    assert longer.cached_tokens == 64
    assert same.first_token_s == pytest.approx(1.0 + 0.010 + 16 * 0.001)


def test_an_adapter_reuses_base_blocks_up_to_its_own(engine: ModelledEngine, make_call: MakeCall) -> None:
    engine.submit(make_call(64), 0.0)
    finish(engine)
    judged = engine.submit(make_call(80, adapter="a", kind="alora", own=1), 1.0)
    finish(engine)
    other = engine.submit(make_call(80, adapter="b", kind="alora", own=1), 3.0)
    finish(engine)
    back = engine.submit(make_call(96), 5.0)
    finish(engine)
    assert [judged.cached_tokens, other.cached_tokens, back.cached_tokens] == [64, 64, 64]


def test_an_answer_takes_a_step_a_token_after_the_first(engine: ModelledEngine, make_call: MakeCall) -> None:
    request = engine.submit(make_call(64, 11), 0.0)
    finish(engine)
    assert request.finished_s == pytest.approx(request.first_token_s + 10 * 0.021)


def test_steps_grow_with_their_contexts(calibration: Calibration, make_call: MakeCall) -> None:
    times = calibration.decode.model_copy(update={"s_per_context_token": 0.0001})
    engine = ModelledEngine(calibration.model_copy(update={"decode": times}), kv_tokens=1600, block_tokens=16)
    request = engine.submit(make_call(64, 4), 0.0)
    finish(engine)
    contexts = 65 + 66 + 67
    assert request.finished_s - request.first_token_s == pytest.approx(3 * 0.021 + contexts * 0.0001)


def test_a_call_that_comes_while_answers_run_begins_at_the_end_of_the_step(
    engine: ModelledEngine, make_call: MakeCall
) -> None:
    first = engine.submit(make_call(64, 11), 0.0)
    engine.end_step()
    arrival_s = first.first_token_s + 2.5 * 0.021
    second = engine.submit(make_call(32, stream=1), arrival_s)
    finish(engine)
    begins_s = first.first_token_s + 3 * 0.021
    # The step computes 32 tokens and one of the running answer; its fixed part is the larger one.
    assert second.first_token_s == pytest.approx(begins_s + 0.020 + 32 * 0.001 + 0.001)
    assert first.finished_s == pytest.approx(second.first_token_s + 6 * 0.021)


def test_prompts_are_prefilled_in_the_order_in_which_they_came(engine: ModelledEngine, make_call: MakeCall) -> None:
    first = engine.submit(make_call(300), 0.0)
    second = engine.submit(make_call(100, stream=1), 0.001)
    finish(engine)
    assert first.first_token_s == pytest.approx(0.266 + 0.010 + 0.144)
    assert second.first_token_s == pytest.approx(first.first_token_s)


def test_siblings_of_one_prompt_prefill_it_once(engine: ModelledEngine, make_call: MakeCall) -> None:
    calls = [make_call(200) for _ in range(3)]
    requests = [engine.submit(call, 0.0) for call in calls]
    finish(engine)
    assert [one.cached_tokens for one in requests] == [0, 192, 192]


def test_calls_wait_for_room_in_the_cache(engine: ModelledEngine, make_call: MakeCall) -> None:
    large = engine.submit(make_call(1000, 100), 0.0)
    waits = engine.submit(make_call(800, stream=1), 0.0)
    assert engine.waiting == 1
    finish(engine)
    assert waits.first_token_s > large.finished_s
    with pytest.raises(ValueError, match="a call of 1700 tokens cannot run"):
        engine.submit(make_call(1699), 0.0)


def test_no_more_requests_run_at_once_than_may(engine: ModelledEngine, make_call: MakeCall) -> None:
    requests = [engine.submit(make_call(16, 10, stream=index), 0.0) for index in range(5)]
    ended = finish(engine)
    assert ended.index(requests[4]) == 4
    assert requests[4].first_token_s > requests[0].finished_s


def test_a_call_waits_for_an_adapter_slot_and_lets_others_pass(engine: ModelledEngine, make_call: MakeCall) -> None:
    running = [engine.submit(make_call(16, 40, stream=i, adapter=f"a{i}", kind="lora"), 0.0) for i in range(2)]
    waits = engine.submit(make_call(16, stream=2, adapter="a2", kind="lora"), 0.0)
    passes = engine.submit(make_call(16, stream=3), 0.0)
    finish(engine)
    assert passes.first_token_s < running[0].finished_s < waits.first_token_s


def test_calls_that_let_others_pass_keep_their_order(engine: ModelledEngine, make_call: MakeCall) -> None:
    for index in range(2):
        engine.submit(make_call(16, 40, stream=index, adapter=f"a{index}", kind="lora"), 0.0)
    waiting = [engine.submit(make_call(250, stream=index, adapter="a2", kind="lora"), 0.0) for index in (2, 3)]
    finish(engine)
    assert waiting[0].first_token_s < waiting[1].first_token_s


def test_an_adapter_is_loaded_once_while_it_stays_resident(engine: ModelledEngine, make_call: MakeCall) -> None:
    times = []
    for number, adapter in enumerate(("a", "a", "b", "c", "a")):
        request = engine.submit(make_call(16, stream=number, adapter=adapter, kind="lora"), 10.0 * number)
        finish(engine)
        times.append(request.first_token_s - 10.0 * number)
    cold, warm = 0.5 + 0.010 + 0.016, 0.010 + 0.016
    assert times == pytest.approx([cold, warm, cold, cold, cold])
    assert engine.adapter_loads == 4
    assert set(engine.resident) == {"c", "a"}


def test_kv_events_name_places_in_chains_and_tails_go_first(engine: ModelledEngine, make_call: MakeCall) -> None:
    call = make_call(1600 - 16, 1)
    engine.submit(call, 0.0)
    events = []
    while engine.next_s < math.inf:
        events += engine.end_step().kv_events
    stored = [holding for one, _ in events for holding in one]
    assert [one.key for one in stored] == call.keys
    assert all(one.anchor == anchor(call.keys, index) for index, one in enumerate(stored))
    assert {one.head for one in stored} == {call.keys[0]}
    engine.submit(make_call(32, stream=1), 50.0)
    _, removed = engine.end_step().kv_events[0]
    assert removed == call.keys[-1:-3:-1][: len(removed)]


def test_an_answer_is_found_by_who_goes_on_from_it(calibration: Calibration, make_call: MakeCall) -> None:
    longer = make_call(112)
    engine = ModelledEngine(calibration, kv_tokens=1600, block_tokens=16, answer_keys=lambda call: longer.keys[4:6])
    engine.submit(make_call(64, 40), 0.0)
    finish(engine)
    request = engine.submit(longer, 100.0)
    finish(engine)
    assert request.cached_tokens == 96


def test_what_a_replica_publishes_is_what_it_has_to_do(engine: ModelledEngine, make_call: MakeCall) -> None:
    engine.submit(make_call(64, 5, adapter="a", kind="lora"), 0.0)
    engine.submit(make_call(48, stream=1), 0.0)
    load = engine.load()
    assert (load.running, load.waiting, load.queued_prefill_tokens) == (0, 2, 112)
    assert load.queued_prefill_s == pytest.approx(2 * 0.010 + 112 * 0.001)
    assert load.running_tokens == 69 + 49
    assert engine.active_adapters == ("a",)
    finish(engine)
    idle = engine.load()
    assert (idle.running, idle.waiting, idle.queued_prefill_tokens, idle.running_tokens) == (0, 0, 0, 0)
    assert idle.queued_prefill_s == pytest.approx(0.0)
    assert idle.kv_usage == 0.0
