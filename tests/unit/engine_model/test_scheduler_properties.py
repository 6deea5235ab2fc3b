"""What holds for the scheduler whatever it is asked: nothing leaks, the budget is kept, every request ends in order."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

from hypothesis import example, given
from hypothesis import strategies as st

from aloraserve.blocks import BlockKey, KeySpace
from aloraserve.engine_model.calibration import AdapterTimes, Calibration, DecodeTimes, PrefillTimes
from aloraserve.engine_model.outputs import BlocksChanged, EngineCoreOutputs
from aloraserve.engine_model.request import Request, RequestStatus
from aloraserve.engine_model.scheduler import Scheduler
from aloraserve.routing.scheduling import Scheduling, SchedulingPolicy

BLOCK = 4
SPACE = KeySpace("model", "tokenizer", BLOCK)
BUDGET = 12
MAX_NUM_SEQS = 4
CAPACITY = 24


def calibration(*, is_apart: bool) -> Calibration:
    return Calibration(
        name="small",
        machine="paper",
        model="none",
        dtype="bfloat16",
        date="2026-01-01",
        sources=["this test"],
        prefill=PrefillTimes(fixed_s=0.010, s_per_token=0.001, s_per_square_token=0.0),
        decode=DecodeTimes(fixed_s=0.020, s_per_sequence=0.001, s_per_context_token=0.0001),
        adapters=AdapterTimes(load_s=0.1, slots=1, resident=2),
        kv_tokens=CAPACITY * BLOCK,
        block_tokens=BLOCK,
        max_num_batched_tokens=BUDGET,
        max_num_seqs=MAX_NUM_SEQS,
        prefill_apart=is_apart,
    )


@dataclass
class Play:
    """Plays actions on a scheduler and checks after each what must hold."""

    scheduler: Scheduler
    now_s: float = 0.0
    requests: list[Request] = field(default_factory=list)
    cached: set[BlockKey] = field(default_factory=set)
    tokens: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    preempted: int = 0

    def add(self, stream: int, prompt: int, output: int, adapter: str | None, priority: int = 0) -> None:
        chain = SPACE.extend(SPACE.root(f"{stream} {adapter}"), range(prompt + output))
        whole = prompt // BLOCK
        request = Request(
            request_id=len(self.requests),
            arrival_s=self.now_s,
            prompt_keys=chain[:whole],
            num_prompt_tokens=prompt,
            max_tokens=output,
            adapter=adapter,
            priority=priority,
            output_keys=lambda: chain[whole : (prompt + output - 1) // BLOCK],
        )
        self.requests.append(request)
        self.scheduler.add_request(request)
        self.scheduler.schedule(self.now_s)

    def abort(self, number: int) -> None:
        if self.requests:
            request_id = self.requests[number % len(self.requests)].request_id
            self.scheduler.abort_requests([request_id], self.now_s)
            self.scheduler.schedule(self.now_s)

    def reset(self, *, preempt: bool) -> None:
        was_running = bool(self.scheduler.running)
        waiting = [request for request in self.requests if request.status is RequestStatus.WAITING]
        done = self.scheduler.reset_prefix_cache(self.now_s, reset_running_requests=preempt)
        assert done is (preempt or not was_running)
        self.preempted += done and was_running
        assert all(request.status is RequestStatus.WAITING for request in waiting)

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds
        self._took(self.scheduler.advance(self.now_s))

    def drain(self) -> None:
        while self.scheduler.next_event_s < math.inf:
            self.now_s = self.scheduler.next_event_s
            self._took(self.scheduler.advance(self.now_s))

    def check(self) -> None:
        scheduler = self.scheduler
        cache = scheduler.kv_cache_manager.cache
        self._read(scheduler.take_events())
        assert self.cached == {*cache._references, *cache._idle}
        assert len(self.cached) + cache._unkeyed <= CAPACITY
        assert set(cache._requests) == set(scheduler.running)
        assert cache._unkeyed == sum(self._unkeyed_blocks(request) for request in scheduler.running.values())
        assert len(scheduler.running) <= MAX_NUM_SEQS
        assert len(scheduler.adapter_slots.running) <= 1
        beside = 0 if scheduler._times.prefill_apart or not scheduler._chunks else len(scheduler._answers)
        assert sum(tokens for _, tokens in scheduler._chunks) + beside <= BUDGET
        assert len(scheduler.running) + scheduler.num_waiting == len(scheduler.requests)
        # What comes exactly at the end of a step of a series ends the series there.
        assert scheduler.next_event_s >= self.now_s
        assert (scheduler.next_event_s < math.inf) or not scheduler.requests
        for request in scheduler.requests.values():
            tokens = scheduler.num_output_tokens(request, self.now_s)
            assert self.tokens[int(request.request_id)] <= tokens < request.max_tokens
            assert scheduler.token_s(request, tokens + 1) >= self.now_s
            self.tokens[int(request.request_id)] = tokens

    def _unkeyed_blocks(self, request: Request) -> int:
        """Return how many blocks without a key a running request has, at the end of the steps that run."""
        answers = self.scheduler._answers
        tokens = request.num_tokens
        if request.end_step >= 0:
            steps_left = request.end_step - answers._step - answers._steps
            tokens = request.num_prompt_tokens + request.max_tokens - 1 - steps_left
        elif request in answers:
            tokens -= 1
        return -(-tokens // BLOCK) - request.num_keyed_blocks

    def _took(self, outputs: EngineCoreOutputs) -> None:
        assert all(request.status.is_finished for request in outputs.finished)
        assert all(request.num_output_tokens == request.max_tokens for request in outputs.finished)
        self._read(outputs.kv_events)

    def _read(self, events: list[object]) -> None:
        for event in events:
            if isinstance(event, BlocksChanged):
                assert self.cached.issuperset(event.removed)
                self.cached.difference_update(event.removed)
                assert self.cached.isdisjoint(event.stored)
                assert event.first == 0 or event.chain[event.first - 1] in self.cached or not event.stored
                self.cached.update(event.stored)
            else:
                self.cached.clear()


ADDS = st.tuples(
    st.just("add"),
    st.integers(0, 2),
    st.integers(1, 40),
    st.integers(1, 30),
    st.sampled_from((None, "a", "b")),
    st.integers(0, 3),
)
# Time passes until an instant before the end of the step that computes both last tokens.
INSTANT_BEFORE_THE_LAST_TOKEN = [
    ("add", 0, 1, 1, "a", 0),
    ("pass", 0.25),
    ("add", 1, 27, 6, "a", 0),
    ("add", 1, 27, 6, "a", 0),
    ("pass", 0.2),
]
ACTIONS = st.lists(
    st.one_of(
        ADDS,
        ADDS,
        st.tuples(st.just("pass"), st.floats(0.001, 0.3)),
        st.tuples(st.just("abort"), st.integers(0, 50)),
        st.tuples(st.just("reset"), st.booleans()),
    ),
    max_size=30,
)


def play(actions: list[tuple[object, ...]], *, is_apart: bool, policy: SchedulingPolicy = "priority") -> Play:
    played = Play(
        Scheduler(calibration(is_apart=is_apart), kv_tokens=CAPACITY * BLOCK, block_tokens=BLOCK, policy=policy)
    )
    for action in actions:
        match action:
            case ("add", int(stream), int(prompt), int(output), adapter, int(priority)):
                played.add(stream, prompt, output, adapter if isinstance(adapter, str) else None, priority)
            case ("pass", float(seconds)):
                played.pass_s(seconds)
            case ("abort", int(number)):
                played.abort(number)
            case ("reset", bool(preempt)):
                played.reset(preempt=preempt)
        played.check()
    played.drain()
    played.check()
    return played


@given(ACTIONS, st.booleans(), st.sampled_from(("priority", "fcfs")))
def test_nothing_leaks_limits_are_kept_and_every_request_ends(
    actions: list[tuple[object, ...]], is_apart: bool, policy: SchedulingPolicy
) -> None:
    played = play(actions, is_apart=is_apart, policy=policy)
    scheduler = played.scheduler
    assert (scheduler.requests, scheduler.running, scheduler.num_waiting) == ({}, {}, 0)
    assert scheduler.kv_cache_manager.cache.used_blocks == 0
    assert not scheduler.kv_cache_manager._uncomputed
    assert scheduler._answers._context_tokens == 0
    assert not any(scheduler._answers._blocks._by_offset)
    assert scheduler.adapter_slots.running == ()
    for request in played.requests:
        assert request.status.is_finished
        assert math.isnan(request.finished_s) is (request.status is RequestStatus.FINISHED_ABORTED)


@given(ACTIONS, st.booleans())
def test_requests_begin_in_the_order_in_which_they_came(actions: list[tuple[object, ...]], is_apart: bool) -> None:
    """But for those of adapters, which wait for a slot."""
    played = play(actions, is_apart=is_apart, policy="fcfs")
    begun = [
        request.scheduled_s
        for request in played.requests
        if request.adapter is None and not math.isnan(request.scheduled_s)
    ]
    assert begun == sorted(begun)


@given(ACTIONS)
@example(INSTANT_BEFORE_THE_LAST_TOKEN)
def test_times_do_not_depend_on_how_often_the_driver_looks(actions: list[tuple[object, ...]]) -> None:
    """A driver that looks at each event, and one that looks only when it has something to say, see the same."""
    seldom = play(actions, is_apart=False)
    often = Play(Scheduler(calibration(is_apart=False), kv_tokens=CAPACITY * BLOCK, block_tokens=BLOCK))
    for action in actions:
        match action:
            case ("add", int(stream), int(prompt), int(output), adapter, int(priority)):
                often.add(stream, prompt, output, adapter if isinstance(adapter, str) else None, priority)
            case ("pass", float(seconds)):
                end_s = often.now_s + seconds
                while often.scheduler.next_event_s <= end_s:
                    often.now_s = often.scheduler.next_event_s
                    often.pass_s(0.0)
                    often.check()
                often.now_s = end_s
            case ("abort", int(number)):
                often.abort(number)
            case ("reset", bool(preempt)):
                often.reset(preempt=preempt)
    often.drain()
    assert [request.finished_s for request in often.requests if request.finished_s > 0] == [
        request.finished_s for request in seldom.requests if request.finished_s > 0
    ]
    assert [request.num_cached_tokens for request in often.requests] == [
        request.num_cached_tokens for request in seldom.requests
    ]


ARRIVALS = st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 40), st.integers(1, 12)), min_size=2, max_size=25)


@given(ARRIVALS, st.floats(0.001, 1.0), st.booleans())
def test_nothing_accepted_too_late_overtakes_a_call(
    arrivals: list[tuple[float, int, int]], ageing: float, is_apart: bool
) -> None:
    """A call that takes p seconds is overtaken only by shorter ones accepted within the next p / ageing seconds."""
    scheduling, times = Scheduling(ageing=ageing), calibration(is_apart=is_apart)
    played = Play(Scheduler(times, kv_tokens=CAPACITY * BLOCK, block_tokens=BLOCK, policy="priority"))
    prefills_s: list[float] = []
    for number, (gap_s, prompt, output) in enumerate(arrivals):
        played.pass_s(gap_s)
        prefills_s.append(times.prefill.model.seconds(0, prompt))
        played.add(number, prompt, output, None, scheduling.priority(prefills_s[-1], played.now_s))
        played.check()
    played.drain()
    for call, prefill_s in zip(played.requests, prefills_s, strict=True):
        for other, other_s in zip(played.requests, prefills_s, strict=True):
            if other.arrival_s > call.arrival_s and other.scheduled_s < call.scheduled_s:
                assert other_s < prefill_s
                assert other.arrival_s < call.arrival_s + prefill_s / ageing + 1e-5


@given(ARRIVALS)
def test_of_those_that_wait_the_lowest_priority_begins_first(arrivals: list[tuple[float, int, int]]) -> None:
    played = Play(Scheduler(calibration(is_apart=False), kv_tokens=CAPACITY * BLOCK, block_tokens=BLOCK))
    for number, (gap_s, prompt, output) in enumerate(arrivals):
        played.pass_s(gap_s)
        played.add(number, prompt, output, None, priority=prompt % 5)
    played.drain()
    for call in played.requests:
        for other in played.requests:
            if other.priority < call.priority and other.arrival_s <= call.scheduled_s < other.scheduled_s:
                # It came while the step ran that began both, or it was there and had its turn first.
                assert other.arrival_s == call.scheduled_s
