"""The scheduler's times, computed by hand, and vLLM's rules that they follow from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest

from aloraserve.blocks import BlockKey
from aloraserve.engine_model.calibration import Calibration
from aloraserve.engine_model.outputs import AllBlocksCleared, BlocksChanged, KVCacheEvent
from aloraserve.engine_model.request import Request, RequestStatus, choice_ids, no_keys
from aloraserve.engine_model.scheduler import Scheduler
from aloraserve.routing.scheduling import SchedulingPolicy
from aloraserve.simulation.base import SimulatedCall

MakeCall = Callable[..., SimulatedCall]


def request_of(call: SimulatedCall, now_s: float, answer: Callable[[], Sequence[BlockKey]] = no_keys) -> Request:
    return Request(
        request_id=call.request,
        arrival_s=now_s,
        prompt_keys=call.keys,
        num_prompt_tokens=call.prompt_tokens,
        max_tokens=call.output_tokens,
        adapter=call.adapter,
        output_keys=answer,
    )


class Engine(Scheduler):
    """A scheduler whose driver is the test."""

    def submit(self, call: SimulatedCall, now_s: float, answer: Callable[[], Sequence[BlockKey]] = no_keys) -> Request:
        request = request_of(call, now_s, answer)
        self.add_request(request)
        self.schedule(now_s)
        return request

    def abort(self, request: Request, now_s: float) -> None:
        self.abort_requests([request.request_id], now_s)
        self.schedule(now_s)

    def end_step(self) -> list[KVCacheEvent]:
        return self.advance(self.next_event_s).kv_events


@pytest.fixture
def engine(calibration: Calibration) -> Engine:
    return Engine(calibration, kv_tokens=calibration.kv_tokens, block_tokens=16)


def finish(engine: Scheduler) -> list[Request]:
    """Run until nothing is left and return the requests in the order in which they ended."""
    ended: list[Request] = []
    while engine.next_event_s < math.inf:
        ended += engine.advance(engine.next_event_s).finished
    return ended


def test_a_cold_prompt_takes_a_step_and_its_tokens(engine: Engine, make_call: MakeCall) -> None:
    request = engine.submit(make_call(100), 1.0)
    finish(engine)
    assert request.first_token_s == pytest.approx(1.0 + 0.010 + 100 * 0.001)


def test_a_long_prompt_takes_several_steps(engine: Engine, make_call: MakeCall) -> None:
    request = engine.submit(make_call(600), 0.0)
    finish(engine)
    assert request.first_token_s == pytest.approx(3 * 0.010 + 600 * 0.001)


def test_cached_blocks_are_not_computed_again_but_the_last_token_is(engine: Engine, make_call: MakeCall) -> None:
    engine.submit(make_call(64), 0.0)
    finish(engine)
    same = engine.submit(make_call(64), 1.0)
    longer = engine.submit(make_call(80), 2.0)
    finish(engine)
    assert same.num_cached_tokens == 48
    assert longer.num_cached_tokens == 64
    assert same.first_token_s == pytest.approx(1.0 + 0.010 + 16 * 0.001)


def test_an_adapter_reuses_base_blocks_up_to_its_own(engine: Engine, make_call: MakeCall) -> None:
    engine.submit(make_call(64), 0.0)
    finish(engine)
    judged = engine.submit(make_call(80, adapter="a", kind="alora", own=1), 1.0)
    finish(engine)
    other = engine.submit(make_call(80, adapter="b", kind="alora", own=1), 3.0)
    finish(engine)
    back = engine.submit(make_call(96), 5.0)
    finish(engine)
    assert [judged.num_cached_tokens, other.num_cached_tokens, back.num_cached_tokens] == [64, 64, 64]


def test_an_answer_takes_a_step_a_token_after_the_first(engine: Engine, make_call: MakeCall) -> None:
    request = engine.submit(make_call(64, 11), 0.0)
    finish(engine)
    assert request.finished_s == pytest.approx(request.first_token_s + 10 * 0.021)


def test_steps_grow_with_their_contexts(calibration: Calibration, make_call: MakeCall) -> None:
    times = calibration.decode.model_copy(update={"s_per_context_token": 0.0001})
    engine = Engine(calibration.model_copy(update={"decode": times}), kv_tokens=1600, block_tokens=16)
    request = engine.submit(make_call(64, 4), 0.0)
    finish(engine)
    contexts = 65 + 66 + 67
    assert request.finished_s - request.first_token_s == pytest.approx(3 * 0.021 + contexts * 0.0001)


def test_a_call_that_comes_while_answers_run_begins_at_the_end_of_the_step(engine: Engine, make_call: MakeCall) -> None:
    first = engine.submit(make_call(64, 11), 0.0)
    engine.end_step()
    arrival_s = first.first_token_s + 2.5 * 0.021
    second = engine.submit(make_call(32, stream=1), arrival_s)
    finish(engine)
    begins_s = first.first_token_s + 3 * 0.021
    # The step computes 32 tokens and one of the running answer; its fixed part is the larger one.
    assert second.first_token_s == pytest.approx(begins_s + 0.020 + 32 * 0.001 + 0.001)
    assert first.finished_s == pytest.approx(second.first_token_s + 6 * 0.021)


def test_prompts_are_prefilled_in_the_order_in_which_they_came(engine: Engine, make_call: MakeCall) -> None:
    first = engine.submit(make_call(300), 0.0)
    second = engine.submit(make_call(100, stream=1), 0.001)
    finish(engine)
    assert first.first_token_s == pytest.approx(0.266 + 0.010 + 0.144)
    assert second.first_token_s == pytest.approx(first.first_token_s)


def test_siblings_of_one_prompt_prefill_it_once(engine: Engine, make_call: MakeCall) -> None:
    calls = [make_call(200) for _ in range(3)]
    requests = [engine.submit(call, 0.0) for call in calls]
    finish(engine)
    assert [one.num_cached_tokens for one in requests] == [0, 192, 192]


def test_calls_wait_for_room_in_the_cache(engine: Engine, make_call: MakeCall) -> None:
    large = engine.submit(make_call(1000, 100), 0.0)
    waits = engine.submit(make_call(800, stream=1), 0.0)
    assert engine.num_waiting == 1
    finish(engine)
    assert waits.first_token_s > large.finished_s
    with pytest.raises(ValueError, match="a call of 1700 tokens cannot run"):
        engine.submit(make_call(1699), 0.0)


def test_no_more_requests_run_at_once_than_may(engine: Engine, make_call: MakeCall) -> None:
    requests = [engine.submit(make_call(16, 10, stream=index), 0.0) for index in range(5)]
    ended = finish(engine)
    assert ended.index(requests[4]) == 4
    assert requests[4].first_token_s > requests[0].finished_s


def test_a_call_waits_for_an_adapter_slot_and_lets_others_pass(engine: Engine, make_call: MakeCall) -> None:
    running = [engine.submit(make_call(16, 40, stream=i, adapter=f"a{i}", kind="lora"), 0.0) for i in range(2)]
    waits = engine.submit(make_call(16, stream=2, adapter="a2", kind="lora"), 0.0)
    passes = engine.submit(make_call(16, stream=3), 0.0)
    finish(engine)
    assert passes.first_token_s < running[0].finished_s < waits.first_token_s


def test_calls_that_let_others_pass_keep_their_order(engine: Engine, make_call: MakeCall) -> None:
    for index in range(2):
        engine.submit(make_call(16, 40, stream=index, adapter=f"a{index}", kind="lora"), 0.0)
    waiting = [engine.submit(make_call(250, stream=index, adapter="a2", kind="lora"), 0.0) for index in (2, 3)]
    finish(engine)
    assert waiting[0].first_token_s < waiting[1].first_token_s


def test_an_adapter_is_loaded_once_while_it_stays_resident(engine: Engine, make_call: MakeCall) -> None:
    times = []
    for number, adapter in enumerate(("a", "a", "b", "c", "a")):
        request = engine.submit(make_call(16, stream=number, adapter=adapter, kind="lora"), 10.0 * number)
        finish(engine)
        times.append(request.first_token_s - 10.0 * number)
    cold, warm = 0.5 + 0.010 + 0.016, 0.010 + 0.016
    assert times == pytest.approx([cold, warm, cold, cold, cold])
    assert engine.adapter_slots.loads == 4
    assert set(engine.adapter_slots.resident) == {"c", "a"}


def test_kv_events_name_blocks_by_their_chains_and_tails_go_first(engine: Engine, make_call: MakeCall) -> None:
    call = make_call(1600 - 16, 1)
    engine.submit(call, 0.0)
    events: list[KVCacheEvent] = []
    while engine.next_event_s < math.inf:
        events += engine.end_step()
    (stored,) = events
    assert isinstance(stored, BlocksChanged)
    assert (stored.first, list(stored.chain), list(stored.stored)) == (0, call.keys, call.keys)
    engine.submit(make_call(32, stream=1), 50.0)
    removed = engine.end_step()[0]
    assert isinstance(removed, BlocksChanged)
    assert removed.removed == call.keys[-1:-3:-1][: len(removed.removed)]


def test_a_steps_events_are_out_when_it_ends(engine: Engine, make_call: MakeCall) -> None:
    first = engine.submit(make_call(64), 0.0)
    second = engine.submit(make_call(64, stream=1), 0.0)
    assert engine.advance(0.05).kv_events == []
    for request in (first, second):
        (event,) = engine.end_step()
        assert isinstance(event, BlocksChanged)
        assert event.request is request
    assert engine.take_events() == []


def test_an_answer_is_found_by_who_goes_on_from_it(engine: Engine, make_call: MakeCall) -> None:
    longer = make_call(112)
    engine.submit(make_call(64, 40), 0.0, lambda: longer.keys[4:6])
    finish(engine)
    request = engine.submit(longer, 100.0)
    finish(engine)
    assert request.num_cached_tokens == 96


def test_the_time_that_the_engine_computed_is_counted(engine: Engine, make_call: MakeCall) -> None:
    engine.submit(make_call(64, 3), 0.0)
    finish(engine)
    engine.submit(make_call(64, stream=1), 10.0)
    finish(engine)
    assert engine.busy_s == pytest.approx(0.010 + 0.064 + 2 * 0.021 + 0.010 + 0.064)


def test_several_that_come_at_once_begin_in_one_step(engine: Engine, make_call: MakeCall) -> None:
    """So the choices of one call share their prompt; each computes its last block itself, as in vLLM."""
    requests = [request_of(make_call(64, 5), 0.0) for _ in range(3)]
    for request in requests:
        engine.add_request(request)
    engine.schedule(0.0)
    finish(engine)
    assert [request.num_cached_tokens for request in requests] == [0, 48, 48]
    assert len({(request.first_token_s, request.finished_s) for request in requests}) == 1
    assert requests[0].first_token_s == pytest.approx(0.010 + 0.064 + 2 * 0.016)


def test_choices_are_named_as_vllm_names_them() -> None:
    assert choice_ids("a", 1) == ["a"]
    assert choice_ids("a", 3) == ["0_a", "1_a", "2_a"]


def test_steps_that_are_over_are_taken_in_late_at_their_own_times(engine: Engine, make_call: MakeCall) -> None:
    first = engine.submit(make_call(64, 11), 0.0)
    waits = engine.submit(make_call(64, stream=1), 0.0)
    outputs = engine.advance(100.0)
    assert outputs.finished == [waits, first]
    assert first.finished_s == pytest.approx(0.074 + 0.020 + 0.064 + 0.001 + 9 * 0.021)


def test_an_answers_tokens_are_known_at_any_time(engine: Engine, make_call: MakeCall) -> None:
    request = engine.submit(make_call(64, 11), 0.0)
    assert engine.num_output_tokens(request, 0.05) == 0
    assert engine.token_s(request, 1) == engine.next_event_s
    engine.advance(engine.next_event_s)
    begun_s = request.first_token_s
    for tokens in range(1, 10):
        assert engine.num_output_tokens(request, begun_s + (tokens - 1 + 0.5) * 0.021) == tokens
        assert engine.token_s(request, tokens + 1) == pytest.approx(begun_s + tokens * 0.021)
        assert engine.num_output_tokens(request, engine.token_s(request, tokens + 1)) == tokens + 1
    finish(engine)
    assert engine.num_output_tokens(request, 50.0) == 11


def test_when_a_token_comes_is_never_said_too_late(engine: Engine, make_call: MakeCall) -> None:
    """Also of one beyond the steps that run: whoever waits for it looks again, at most once a step."""
    first, second = (engine.submit(make_call(64, tokens, stream=tokens), 0.0) for tokens in (5, 40))
    engine.advance(0.2)
    said_s = engine.token_s(second, 30)
    assert said_s > first.first_token_s + 28 * 0.020
    engine.advance(said_s)
    assert 20 < engine.num_output_tokens(second, said_s) <= 30


def test_an_aborted_answer_frees_its_blocks_and_slots_at_once(engine: Engine, make_call: MakeCall) -> None:
    request = engine.submit(make_call(64, 100, adapter="a", kind="lora"), 0.0)
    stays = engine.submit(make_call(64, 20, stream=1), 0.0)
    engine.advance(1.0)
    engine.abort(request, 1.0)
    assert request.status is RequestStatus.FINISHED_ABORTED
    assert engine.kv_cache_manager.cache.used_blocks == 5
    assert engine.adapter_slots.running == ()
    assert list(engine.running) == [stays.request_id]
    assert finish(engine) == [stays]
    assert math.isnan(request.finished_s)


def test_the_step_in_which_an_answer_is_given_up_ends_as_it_would_have(engine: Engine, make_call: MakeCall) -> None:
    engine.submit(make_call(64, 100), 0.0)
    other = engine.submit(make_call(64, 100, stream=1), 0.0)
    engine.advance(0.2)
    begun_s = other.first_token_s
    engine.abort(other, begun_s + 0.5 * 0.022)
    next_one = engine.submit(make_call(16, stream=2), begun_s + 0.6 * 0.022)
    engine.advance(1.0)
    assert next_one.first_token_s == pytest.approx(begun_s + 0.022 + 0.020 + 0.016 + 0.001)


def test_a_waiting_call_that_is_given_up_lets_the_next_one_begin(engine: Engine, make_call: MakeCall) -> None:
    engine.submit(make_call(1000, 400), 0.0)
    large = engine.submit(make_call(800, stream=1), 0.0)
    small = engine.submit(make_call(16, stream=2), 0.0)
    engine.advance(2.0)
    assert engine.num_waiting == 2
    engine.abort(large, 2.0)
    engine.advance(2.1)
    assert small.first_token_s < 2.1


def test_what_an_aborted_prompt_did_not_compute_is_not_cached(engine: Engine, make_call: MakeCall) -> None:
    call = make_call(600)
    request = engine.submit(call, 0.0)
    engine.advance(0.010 + 0.256)
    engine.abort(request, 0.3)
    assert engine.kv_cache_manager.cache.match(call.keys) == 16
    event = engine.take_events()[0]
    assert isinstance(event, BlocksChanged)
    assert list(event.removed) == call.keys[:15:-1]
    assert list(event.stored) == []


def test_what_a_sibling_computes_stays_when_the_other_is_given_up(engine: Engine, make_call: MakeCall) -> None:
    first, second = (request_of(make_call(200), 0.0) for _ in range(2))
    for request in (first, second):
        engine.add_request(request)
    engine.schedule(0.0)
    engine.abort(first, 0.1)
    assert engine.kv_cache_manager.cache.match(first.prompt_keys) == 12
    engine.abort(second, 0.1)
    assert engine.kv_cache_manager.cache.match(first.prompt_keys) == 0


def test_an_aborted_answers_blocks_stay_as_far_as_they_were_computed(engine: Engine, make_call: MakeCall) -> None:
    longer = make_call(160)
    request = engine.submit(make_call(64, 96), 0.0, lambda: longer.keys[4:])
    engine.advance(request_first_token_s := engine.next_event_s)
    engine.abort(request, request_first_token_s + 32.5 * 0.021)
    assert engine.kv_cache_manager.cache.match(longer.keys) == 6


def test_a_reset_drops_nothing_while_requests_run(engine: Engine, make_call: MakeCall) -> None:
    call = make_call(64, 10)
    engine.submit(call, 0.0)
    engine.advance(0.1)
    assert not engine.reset_prefix_cache(0.1)
    assert engine.kv_cache_manager.cache.match(call.keys) == 4
    finish(engine)
    assert engine.reset_prefix_cache(5.0)
    assert len(engine.kv_cache_manager.cache) == 0
    assert isinstance(engine.take_events()[-1], AllBlocksCleared)


def test_a_preempting_reset_computes_prompt_and_answer_again(engine: Engine, make_call: MakeCall) -> None:
    longer = make_call(160)
    decodes = engine.submit(make_call(64, 50, adapter="a", kind="lora"), 0.0, lambda: longer.keys[4:])
    engine.advance(engine.next_event_s)
    begun_s = decodes.first_token_s
    assert engine.reset_prefix_cache(begun_s + 30.5 * 0.021, reset_running_requests=True)
    assert (decodes.status, len(engine.kv_cache_manager.cache)) == (RequestStatus.PREEMPTED, 0)
    assert engine.num_output_tokens(decodes, begun_s + 30.5 * 0.021) == 31
    waits = engine.submit(make_call(16, stream=1), begun_s + 30.6 * 0.021)
    step_s = begun_s + 31 * 0.021
    engine.advance(step_s)
    assert list(engine.running) == [decodes.request_id, waits.request_id]
    again_s = engine.next_event_s
    # What it had is computed again in one step, and its next token comes with it.
    assert again_s == pytest.approx(step_s + 0.010 + (64 + 31 + 16) * 0.001)
    engine.advance(again_s)
    assert engine.num_output_tokens(decodes, again_s) == 32
    assert engine.kv_cache_manager.cache.match(longer.keys) == 5
    finish(engine)
    assert decodes.finished_s == pytest.approx(again_s + 18 * 0.021)
    assert decodes.first_token_s == begun_s
    assert decodes.num_cached_tokens == 0


def test_preempted_requests_come_before_those_that_waited(engine: Engine, make_call: MakeCall) -> None:
    began = [engine.submit(make_call(200, 5, stream=stream), 0.0) for stream in range(5)]
    engine.advance(engine.next_event_s)
    running = list(engine.running)
    assert engine.reset_prefix_cache(0.3, reset_running_requests=True)
    engine.advance(engine.next_event_s)
    assert list(engine.running) == running[: len(engine.running)]
    assert sorted(finish(engine), key=began.index) == began


def crowded(calibration: Calibration, policy: SchedulingPolicy) -> Engine:
    """An engine with room for 12 blocks."""
    return Engine(calibration, kv_tokens=12 * 16, block_tokens=16, policy=policy)


def submit_at(engine: Engine, call: SimulatedCall, now_s: float, priority: int) -> Request:
    request = request_of(call, now_s)
    request.priority = priority
    engine.add_request(request)
    engine.schedule(now_s)
    return request


def test_where_blocks_run_out_the_highest_priority_value_is_preempted(
    calibration: Calibration, make_call: MakeCall
) -> None:
    engine = crowded(calibration, "priority")
    last, first, middle = (submit_at(engine, make_call(48, 40, stream=n), 0.0, p) for n, p in enumerate((9, 1, 5)))
    while last.status is not RequestStatus.PREEMPTED:
        engine.advance(engine.next_event_s)
    # All have four blocks and need a fifth.
    assert last.num_output_tokens == 17
    assert [request.status for request in (first, middle)] == [RequestStatus.RUNNING] * 2
    assert engine.num_waiting == 1, "nothing begins in the step that preempted"
    assert finish(engine) == [first, middle, last]
    assert last.num_output_tokens == 40
    assert last.num_cached_tokens == 0, "as it began first"


def test_nothing_begins_in_the_step_that_preempts(calibration: Calibration, make_call: MakeCall) -> None:
    engine = crowded(calibration, "priority")
    last, *_ = (submit_at(engine, make_call(48, 40, stream=n), 0.0, p) for n, p in enumerate((9, 1, 5)))
    engine.advance(engine.next_event_s)
    engine.advance(engine.next_event_s)
    # It finds no room before the preemption, and would just after it.
    waits = submit_at(engine, make_call(16, 1, stream=3), engine.next_event_s - 0.001, 7)
    while last.status is not RequestStatus.PREEMPTED:
        assert waits.status is RequestStatus.WAITING
        engine.advance(engine.next_event_s)
    assert waits.status is RequestStatus.WAITING
    finish(engine)


def test_a_preempted_request_is_computed_again_only_as_far_as_it_was_evicted(
    calibration: Calibration, make_call: MakeCall
) -> None:
    engine = crowded(calibration, "priority")
    stays = submit_at(engine, make_call(80, 30), 0.0, 1)
    goes = submit_at(engine, make_call(90, 60, stream=1), 0.0, 2)
    while goes.status is not RequestStatus.PREEMPTED:
        engine.advance(engine.next_event_s)
    while goes.status is RequestStatus.PREEMPTED:
        engine.advance(engine.next_event_s)
    assert stays.status is RequestStatus.FINISHED
    assert goes.num_computed_tokens >= 64
    assert finish(engine) == [goes]


def test_in_order_of_arrival_the_last_that_began_is_preempted(calibration: Calibration, make_call: MakeCall) -> None:
    engine = crowded(calibration, "fcfs")
    requests = [submit_at(engine, make_call(48, 40, stream=n), 0.0, priority) for n, priority in enumerate((9, 1, 5))]
    while requests[2].status is not RequestStatus.PREEMPTED:
        engine.advance(engine.next_event_s)
    assert [request.status is RequestStatus.PREEMPTED for request in requests] == [False, False, True]
    assert finish(engine) == requests


def test_ids_in_use_are_refused(engine: Engine, make_call: MakeCall) -> None:
    call = make_call(16)
    engine.submit(call, 0.0)
    with pytest.raises(ValueError, match="request 0 runs already"):
        engine.submit(call, 0.0)
    with pytest.raises(ValueError, match="0 to generate; at least 1"):
        engine.submit(make_call(16, 0), 0.0)


@pytest.fixture
def apart(calibration: Calibration) -> Engine:
    return Engine(calibration.model_copy(update={"prefill_apart": True}), kv_tokens=1600, block_tokens=16)


def test_answers_go_on_beside_prompts_where_those_are_computed_apart(apart: Engine, make_call: MakeCall) -> None:
    first = apart.submit(make_call(64, 11), 0.0)
    apart.advance(apart.next_event_s)
    second = apart.submit(make_call(100, 3, stream=1), first.first_token_s + 0.005)
    finish(apart)
    # The prompt begins at once and pays nothing for the answer beside it; the answer does not wait for the prompt.
    assert second.first_token_s == pytest.approx(first.first_token_s + 0.005 + 0.010 + 0.100)
    joins_s = first.first_token_s + 6 * 0.021
    assert second.finished_s == pytest.approx(joins_s + 2 * 0.022)
    assert first.finished_s == pytest.approx(joins_s + 2 * 0.022 + 2 * 0.021)
    assert apart.busy_s == pytest.approx(first.finished_s)


def test_prompts_that_are_computed_apart_come_one_after_the_other(apart: Engine, make_call: MakeCall) -> None:
    requests = [request_of(make_call(tokens, stream=tokens), 0.0) for tokens in (300, 100, 50)]
    for request in requests:
        apart.add_request(request)
    apart.schedule(0.0)
    finish(apart)
    ends = [2 * 0.010 + 0.300, 3 * 0.010 + 0.400, 4 * 0.010 + 0.450]
    assert [request.first_token_s for request in requests] == pytest.approx(ends)
