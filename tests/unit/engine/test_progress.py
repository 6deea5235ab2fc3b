"""Progress: the load is of what runs now, at the speed that the engine's own steps show."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from aloraserve.directory.base import MAX_SETTLED, ReplicaLoad
from aloraserve.engine_model.step_learner import StepLearner
from aloraserve.engine_model.step_model import StepModel
from aloraserve.engine_model.step_stats import StepStats, squares
from aloraserve.routing.queue_profile import seconds_before
from aloraserve.routing.scheduling import AGEING, Scheduling
from aloraserve_services.engine.progress import (
    RATE_TOKENS,
    REMEMBERED_REQUESTS,
    SETTLED_AGAIN_S,
    EngineFacts,
    Progress,
)

ENGINE = StepModel(0.5, s_per_token=0.001, s_per_answer=0.01, s_per_context_token=1e-5)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def learner(clock: Clock) -> StepLearner:
    return StepLearner(clock=clock)


@pytest.fixture
def progress(learner: StepLearner, clock: Clock) -> Progress:
    return Progress(EngineFacts(4), learner, clock)


def near(value: float) -> Any:
    """Equal but for what the fit rounds."""
    return pytest.approx(value, rel=0.01)


def teach(learner: StepLearner, *, answers: bool = True) -> None:
    """Have a learner see the steps of :data:`ENGINE`."""
    prefills = [StepStats(0.0, tokens, squares(0, tokens)) for tokens in (100, 200, 400, 800, 1600)]
    decodes = [StepStats(0.0, answers=count, context_tokens=count * each) for count in (1, 2, 5) for each in (9, 900)]
    for step in prefills + decodes * answers:
        learner.add(step._replace(seconds=ENGINE.seconds(step)))


def test_nothing_to_do_means_no_load_and_no_rate(progress: Progress) -> None:
    assert progress.load(0.25) == ReplicaLoad(kv_usage=0.25, max_requests=4, ageing=AGEING)
    assert progress.active_adapters() == ()
    assert progress.settled() == ()


def test_what_is_known_of_the_engine_is_published_with_the_load(clock: Clock) -> None:
    facts = EngineFacts(8, kv_tokens=4096, adapter_slots=2)
    load = Progress(facts, StepLearner(), clock).load(0.0, adapter_load_s=0.5)
    assert (load.max_requests, load.kv_tokens, load.adapter_slots, load.adapter_load_s) == (8, 4096, 2, 0.5)


def test_how_many_prefills_the_rate_rests_on_is_published(progress: Progress, learner: StepLearner) -> None:
    assert progress.load(0.0).prefill_samples == 0
    teach(learner)
    assert progress.load(0.0).prefill_samples == 5


def test_a_request_waits_until_its_first_token_and_runs_until_its_end(progress: Progress) -> None:
    progress.accept("a", 100)
    progress.accept("b", 30)
    load = progress.load(0.0)
    assert (load.running, load.waiting, load.queued_prefill_tokens) == (0, 2, 130)
    progress.first_token("a")
    load = progress.load(0.0)
    assert (load.running, load.waiting, load.queued_prefill_tokens) == (1, 1, 30)
    progress.end("a")
    load = progress.load(0.0)
    assert (load.running, load.waiting, load.queued_prefill_tokens) == (0, 1, 30)


def test_a_request_that_ends_before_its_first_token_waits_no_more(progress: Progress) -> None:
    progress.accept("a", 100)
    progress.end("a")
    assert progress.load(0.0) == ReplicaLoad(max_requests=4, ageing=AGEING)


def test_what_is_not_running_changes_nothing(progress: Progress, clock: Clock) -> None:
    progress.first_token("stranger")
    progress.end("stranger")
    progress.more_tokens("stranger", 3)
    progress.accept("a", 100)
    progress.end("a")
    clock.now_s += 1
    progress.first_token("a")
    assert progress.load(0.0) == ReplicaLoad(max_requests=4, ageing=AGEING)


def test_the_rate_that_people_read_is_of_a_cold_prompt(progress: Progress, learner: StepLearner) -> None:
    teach(learner)
    expected = RATE_TOKENS / ENGINE.prefill.seconds(0, RATE_TOKENS)
    assert progress.load(0.0).prefill_tokens_per_s == pytest.approx(expected, rel=0.01)


def test_held_tokens_are_not_queued_but_the_last_one_always_is(progress: Progress) -> None:
    progress.accept("a", 100, 60)
    progress.accept("b", 64, 64)
    assert progress.load(0.0).queued_prefill_tokens == 40 + 1


def test_the_running_tokens_are_prompts_and_answers_so_far(progress: Progress) -> None:
    progress.accept("a", 100, 60)
    assert progress.load(0.0).running_tokens == 100
    progress.first_token("a")
    progress.more_tokens("a", 4)
    progress.more_tokens("a", 4)
    assert progress.load(0.0).running_tokens == 109
    progress.end("a")
    assert progress.load(0.0).running_tokens == 0


def test_the_prefill_model_is_learned_and_says_how_long_the_queue_takes(
    progress: Progress, learner: StepLearner, clock: Clock
) -> None:
    assert progress.load(0.0).queued_prefill_s == 0
    teach(learner)
    progress.accept("a", 1000, 500)
    progress.accept("b", 1000)
    load = progress.load(0.0)
    assert (load.prefill_fixed_s, load.prefill_s_per_token) == (near(0.5), near(0.001))
    assert load.queued_prefill_s == near(1.0 + 1.5)
    clock.now_s += 0.75
    assert progress.load(0.0).queued_prefill_s == near(0.25 + 1.5)
    clock.now_s += 0.5
    assert progress.load(0.0).queued_prefill_s == near(1.5), "a late one does not eat into the next"
    progress.first_token("a")
    clock.now_s += 0.5
    assert progress.load(0.0).queued_prefill_s == near(1.0)


def test_the_queue_is_published_by_what_the_engine_computes_before_a_call(
    progress: Progress, learner: StepLearner, clock: Clock
) -> None:
    teach(learner)
    lengths = (("long", 4000), ("short", 300), ("middle", 1500))
    numbers = [progress.accept(name, tokens).number_s for name, tokens in lengths]
    assert sorted(numbers) == [numbers[1], numbers[2], numbers[0]]
    profile = progress.load(0.0).queue_profile
    # All came at once, so that the engine began the shortest.
    assert seconds_before(profile, 0.0) == near(0.8)
    assert seconds_before(profile, 4.0) == near(0.8 + 2.0)
    assert seconds_before(profile, 60.0) == near(0.8 + 2.0 + 4.5)
    clock.now_s += 80.0
    progress.first_token("short")
    # What waited for so long is before a call without any prefill.
    assert seconds_before(progress.load(0.0).queue_profile, 0.0) == near(2.0)
    clock.now_s += 20.0
    assert seconds_before(progress.load(0.0).queue_profile, 0.0) == near(4.5), "the one under way is late"


def test_an_engine_that_takes_calls_in_their_order_has_no_priorities(learner: StepLearner, clock: Clock) -> None:
    teach(learner)
    progress = Progress(EngineFacts(4, scheduling=Scheduling("fcfs")), learner, clock)
    assert (progress.accept("a", 1000).number_s, progress.accept("b", 10).number_s) == (0.0, 0.0)
    load = progress.load(0.0)
    assert (load.ageing, load.queue_profile) == (0.0, ())
    clock.now_s += 0.4
    assert progress.load(0.0).queued_prefill_s == near(1.1 + 0.51), "the first one is under way"


def test_the_decoding_step_is_the_pure_one_of_the_batch_as_it_is(
    progress: Progress, learner: StepLearner, clock: Clock
) -> None:
    teach(learner)
    assert progress.load(0.0).decode_step_s == 0, "nothing decodes"
    for name in ("a", "b"):
        progress.accept(name, 999)
        progress.first_token(name)
    progress.accept("waits", 5000)
    for _ in range(40):
        # Each step computes a chunk of what waits beside the answers, and takes so much longer.
        clock.now_s += 9.0
        progress.more_tokens("a", 1)
    expected = ENGINE.seconds(StepStats(0.0, answers=2, context_tokens=2040))
    assert progress.load(0.0).decode_step_s == near(expected)


def test_the_decoding_step_is_not_known_before_one_was_seen(progress: Progress, learner: StepLearner) -> None:
    teach(learner, answers=False)
    progress.accept("a", 10)
    progress.first_token("a")
    assert progress.load(0.0).decode_step_s == 0


def test_the_time_between_tokens_has_the_prompts_beside_them_in_it(progress: Progress, clock: Clock) -> None:
    for seconds, prefill_tokens in ((0.02, 0), (0.3, 2048)) * 20:
        clock.now_s += seconds
        progress.stepped(StepStats(seconds, prefill_tokens, squares(0, prefill_tokens), answers=3, context_tokens=900))
    assert 0.14 < progress.load(0.0).inter_token_s < 0.18
    for _ in range(400):
        clock.now_s += 0.02
        progress.stepped(StepStats(0.02, answers=3, context_tokens=900))
    assert 0.02 <= progress.load(0.0).inter_token_s < 0.021


def test_the_service_time_is_the_median_of_whole_requests_that_were_answered(progress: Progress, clock: Clock) -> None:
    for seconds, is_answered in ((1.0, True), (50.0, False), (2.0, True), (40.0, True)):
        progress.accept("a", 10)
        if is_answered:
            progress.first_token("a")
        clock.now_s += seconds
        progress.end("a")
    assert progress.load(0.0).service_s == pytest.approx(2.0)


def test_the_service_time_has_no_waiting_in_it(progress: Progress, clock: Clock) -> None:
    for number in range(33):
        progress.accept(str(number), 1000)
    clock.now_s += 30.0
    for number in range(33):
        progress.first_token(str(number), prefill_s=0.5)
    clock.now_s += 5.0
    for number in range(33):
        progress.end(str(number))
    assert progress.load(0.0).service_s == pytest.approx(5.5)


def test_the_active_adapters_are_those_of_accepted_requests(progress: Progress) -> None:
    for number, adapter in enumerate(("safety", None, "certainty", "safety")):
        progress.accept(str(number), 10, adapter=adapter)
    assert progress.active_adapters() == ("certainty", "safety")
    progress.end("0")
    progress.end("2")
    assert progress.active_adapters() == ("safety",)


def test_settled_calls_are_reported_until_they_are_known_and_once_more(progress: Progress, clock: Clock) -> None:
    progress.accept("a", 10)
    progress.accept("b", 10)
    progress.end("a")
    reported = progress.settled()
    assert reported == ("a", "b")
    progress.accept("c", 10)
    assert progress.settled() == ("a", "b", "c"), "no heartbeat has succeeded"
    progress.acknowledged(reported)
    assert progress.settled() == ("c",)
    clock.now_s += SETTLED_AGAIN_S
    again = progress.settled()
    assert again == ("a", "b", "c"), "their claims may have been on their way"
    progress.acknowledged(again)
    assert progress.settled() == ()
    clock.now_s += SETTLED_AGAIN_S
    progress.acknowledged(progress.settled())
    assert progress.settled() == ()


@pytest.mark.parametrize("rate", [1, 50])
def test_each_call_is_reported_twice_whatever_their_rate(progress: Progress, clock: Clock, rate: int) -> None:
    reported: Counter[str] = Counter()
    for number in range(5 * rate):
        progress.accept(str(number), 10)
        progress.end(str(number))
        # Prefills end as often as calls come, and each end is a heartbeat.
        reported.update(settled := progress.settled())
        progress.acknowledged(settled)
        assert len(settled) <= 2
        clock.now_s += 1 / rate
    assert set(reported.values()) <= {1, 2}
    assert [reported[str(number)] for number in range(3 * rate)] == [2] * 3 * rate


def test_all_that_is_remembered_is_bounded(progress: Progress, clock: Clock) -> None:
    for number in range(MAX_SETTLED + 10):
        progress.accept(str(number), 100)
        clock.now_s += 0.01
        progress.first_token(str(number))
        clock.now_s += 0.01
        progress.more_tokens(str(number), 1)
        progress.end(str(number))
    assert progress.settled() == tuple(str(number) for number in range(10, MAX_SETTLED + 10))
    assert len(progress._services_s) == REMEMBERED_REQUESTS
