"""Progress: the load is of what runs now, and the rate of prefills that nothing disturbed."""

from __future__ import annotations

import pytest

from aloraserve.directory.base import MAX_SETTLED, ReplicaLoad
from aloraserve.routing.queue_profile import seconds_before
from aloraserve.routing.scheduling import AGEING, Scheduling
from aloraserve_services.engine.progress import (
    MIN_MEASURED_TOKENS,
    REMEMBERED,
    REMEMBERED_REQUESTS,
    REMEMBERED_STEPS,
    SETTLED_FOR_S,
    EngineFacts,
    Progress,
)


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
def progress(clock: Clock) -> Progress:
    return Progress(EngineFacts(4), clock)


def prefill(progress: Progress, clock: Clock, tokens: int, seconds: float, cached: int = 0) -> None:
    progress.accept("alone", tokens + cached, cached)
    clock.now_s += seconds
    progress.first_token("alone", cached, tokens + cached)
    progress.end("alone")


def rate(progress: Progress) -> float:
    return progress.load(0.0).prefill_tokens_per_s


def test_nothing_to_do_means_no_load_and_no_rate(progress: Progress) -> None:
    assert progress.load(0.25) == ReplicaLoad(kv_usage=0.25, max_requests=4, ageing=AGEING)
    assert progress.active_adapters() == ()
    assert progress.settled() == ()


def test_what_is_known_of_the_engine_is_published_with_the_load(clock: Clock) -> None:
    load = Progress(EngineFacts(8, kv_tokens=4096, adapter_slots=2, adapter_load_s=0.5), clock).load(0.0)
    assert (load.max_requests, load.kv_tokens, load.adapter_slots, load.adapter_load_s) == (8, 4096, 2, 0.5)


def test_how_many_prefills_the_rate_rests_on_is_published(progress: Progress, clock: Clock) -> None:
    for number in range(3):
        assert progress.load(0.0).prefill_samples == number
        prefill(progress, clock, 200, 0.5)


def test_a_request_waits_until_its_first_token_and_runs_until_its_end(progress: Progress) -> None:
    progress.accept("a", 100)
    progress.accept("b", 30)
    load = progress.load(0.0)
    assert (load.running, load.waiting, load.queued_prefill_tokens) == (0, 2, 130)
    progress.first_token("a", 0, 100)
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
    progress.first_token("stranger", 0, 1000)
    progress.end("stranger")
    progress.more_tokens("stranger", 3)
    progress.accept("a", 100)
    progress.end("a")
    clock.now_s += 1
    progress.first_token("a", 0, 100)
    assert progress.load(0.0) == ReplicaLoad(max_requests=4, ageing=AGEING)


def test_the_rate_counts_only_the_tokens_that_were_prefilled(progress: Progress, clock: Clock) -> None:
    prefill(progress, clock, 200, 0.5, cached=800)
    assert rate(progress) == pytest.approx(400)


def test_the_engine_s_count_of_cached_tokens_is_believed_over_the_expected_one(
    progress: Progress, clock: Clock
) -> None:
    progress.accept("a", 1000)
    clock.now_s += 1
    progress.first_token("a", 600, 1000)
    assert rate(progress) == pytest.approx(400)


def test_the_rate_is_the_median_so_one_disturbed_prefill_decides_nothing(progress: Progress, clock: Clock) -> None:
    for seconds in (1.0, 20.0, 1.25):
        prefill(progress, clock, 100, seconds)
    assert rate(progress) == pytest.approx(80)


def test_old_rates_are_forgotten(progress: Progress, clock: Clock) -> None:
    prefill(progress, clock, 100, 50.0)
    for _ in range(REMEMBERED):
        prefill(progress, clock, 100, 1.0)
    prefill(progress, clock, 100, 2.0)
    assert rate(progress) == pytest.approx(100)
    assert len(progress._rates) == REMEMBERED


def test_only_the_first_token_ends_the_prefill(progress: Progress, clock: Clock) -> None:
    progress.accept("a", 100)
    clock.now_s += 1
    progress.first_token("a", 0, 100)
    clock.now_s += 9
    progress.first_token("a", 0, 100)
    assert rate(progress) == pytest.approx(100)


@pytest.mark.parametrize(
    ("tokens", "learnt"), [(MIN_MEASURED_TOKENS - 1, 0), (MIN_MEASURED_TOKENS, MIN_MEASURED_TOKENS)]
)
def test_a_short_prefill_measures_nothing(progress: Progress, clock: Clock, tokens: int, learnt: int) -> None:
    prefill(progress, clock, tokens, 1.0, cached=10_000)
    assert rate(progress) == pytest.approx(learnt)


def test_requests_that_overlap_measure_nothing(progress: Progress, clock: Clock) -> None:
    progress.accept("a", 100)
    progress.accept("b", 100)
    clock.now_s += 1
    progress.first_token("a", 0, 100)
    progress.end("a")
    progress.first_token("b", 0, 100)
    assert rate(progress) == 0


def test_a_disturber_that_left_disturbed_all_the_same(progress: Progress, clock: Clock) -> None:
    progress.accept("a", 100)
    progress.accept("b", 100)
    progress.end("b")
    clock.now_s += 1
    progress.first_token("a", 0, 100)
    assert rate(progress) == 0


def test_one_that_follows_a_finished_one_is_alone_again(progress: Progress, clock: Clock) -> None:
    progress.accept("a", 100)
    progress.end("a")
    prefill(progress, clock, 100, 2.0)
    assert rate(progress) == pytest.approx(50)


def test_a_prefill_within_one_tick_of_the_clock_has_a_finite_rate(progress: Progress, clock: Clock) -> None:
    prefill(progress, clock, 100, 0.0)
    assert 0 < rate(progress) < float("inf")


def test_held_tokens_are_not_queued_but_the_last_one_always_is(progress: Progress) -> None:
    progress.accept("a", 100, 60)
    progress.accept("b", 64, 64)
    assert progress.load(0.0).queued_prefill_tokens == 40 + 1


def test_the_running_tokens_are_prompts_and_answers_so_far(progress: Progress) -> None:
    progress.accept("a", 100, 60)
    assert progress.load(0.0).running_tokens == 100
    progress.first_token("a", 60, 100)
    progress.more_tokens("a", 4)
    progress.more_tokens("a", 4, choice=1)
    assert progress.load(0.0).running_tokens == 109
    progress.end("a")
    assert progress.load(0.0).running_tokens == 0


def test_the_prefill_model_is_learned_and_says_how_long_the_queue_takes(progress: Progress, clock: Clock) -> None:
    assert progress.load(0.0).queued_prefill_s == 0
    for tokens in (100, 200, 400, 800, 1600) * 4:
        prefill(progress, clock, tokens, 0.5 + tokens * 0.001)
    progress.accept("a", 1000, 500)
    progress.accept("b", 1000)
    load = progress.load(0.0)
    assert (load.prefill_fixed_s, load.prefill_s_per_token) == (pytest.approx(0.5), pytest.approx(0.001))
    assert load.queued_prefill_s == pytest.approx(1.0 + 1.5)
    clock.now_s += 0.75
    assert progress.load(0.0).queued_prefill_s == pytest.approx(0.25 + 1.5)
    clock.now_s += 0.5
    assert progress.load(0.0).queued_prefill_s == pytest.approx(1.5), "a late one does not eat into the next"
    progress.first_token("a", 500, 1000)
    clock.now_s += 0.5
    assert progress.load(0.0).queued_prefill_s == pytest.approx(1.0)


def test_the_queue_is_published_by_what_the_engine_computes_before_a_call(progress: Progress, clock: Clock) -> None:
    for tokens in (100, 200, 400, 800, 1600) * 4:
        prefill(progress, clock, tokens, 0.5 + tokens * 0.001)
    priorities = [progress.accept(name, tokens) for name, tokens in (("long", 4000), ("short", 300), ("middle", 1500))]
    assert sorted(priorities) == [priorities[1], priorities[2], priorities[0]]
    profile = progress.load(0.0).queue_profile
    # The engine began the one that was there alone before others came: here all came at once, so the shortest.
    assert seconds_before(profile, 0.0) == pytest.approx(0.8)
    assert seconds_before(profile, 2.0) == pytest.approx(0.8 + 2.0)
    assert seconds_before(profile, 60.0) == pytest.approx(0.8 + 2.0 + 4.5)
    clock.now_s += 80.0
    progress.first_token("short", 0, 300)
    # What waited for so long is before a call without any prefill.
    assert seconds_before(progress.load(0.0).queue_profile, 0.0) == pytest.approx(2.0)
    clock.now_s += 20.0
    assert seconds_before(progress.load(0.0).queue_profile, 0.0) == pytest.approx(4.5), "the one under way is late"


def test_an_engine_that_takes_calls_in_their_order_has_no_priorities(clock: Clock) -> None:
    progress = Progress(EngineFacts(4, scheduling=Scheduling("fcfs")), clock)
    prefill(progress, clock, 1000, 1.0)
    assert (progress.accept("a", 1000), progress.accept("b", 10)) == (0, 0)
    load = progress.load(0.0)
    assert (load.ageing, load.queue_profile) == (0.0, ())
    clock.now_s += 0.4
    assert progress.load(0.0).queued_prefill_s == pytest.approx(0.6 + 0.01), "the first one is under way"


def test_a_request_that_loads_its_adapter_measures_no_prefill(progress: Progress, clock: Clock) -> None:
    progress.accept("a", 100, adapter="safety", is_resident=False)
    clock.now_s += 9
    progress.first_token("a", 0, 100)
    assert (rate(progress), progress.load(0.0).prefill_s_per_token) == (0, 0)


def test_the_step_is_the_median_gap_a_token_of_one_choice(progress: Progress, clock: Clock) -> None:
    progress.accept("a", 10)
    progress.first_token("a", 0, 10)
    for gap_s, tokens, choice in ((0.25, 1, 0), (0.0, 1, 1), (9.0, 1, 0), (1.0, 4, 0)):
        clock.now_s += gap_s
        progress.more_tokens("a", tokens, choice)
    assert progress.load(0.0).decode_step_s == pytest.approx(0.25)


def test_the_service_time_is_the_median_of_whole_requests_that_were_answered(progress: Progress, clock: Clock) -> None:
    for seconds, is_answered in ((1.0, True), (50.0, False), (2.0, True), (40.0, True)):
        progress.accept("a", 10)
        clock.now_s += seconds
        if is_answered:
            progress.first_token("a", 0, 10)
        progress.end("a")
    assert progress.load(0.0).service_s == pytest.approx(2.0)


def test_the_active_adapters_are_those_of_accepted_requests(progress: Progress) -> None:
    for number, adapter in enumerate(("safety", None, "certainty", "safety")):
        progress.accept(str(number), 10, adapter=adapter)
    assert progress.active_adapters() == ("certainty", "safety")
    progress.end("0")
    progress.end("2")
    assert progress.active_adapters() == ("safety",)


def test_settled_calls_are_reported_until_they_are_known_and_a_moment_longer(progress: Progress, clock: Clock) -> None:
    progress.accept("a", 10)
    progress.accept("b", 10)
    progress.end("a")
    reported = progress.settled()
    assert reported == ("a", "b")
    progress.accept("c", 10)
    assert progress.settled() == ("a", "b", "c"), "no heartbeat has succeeded"
    progress.acknowledged(reported)
    assert progress.settled() == ("a", "b", "c"), "their claims may be on their way"
    clock.now_s += SETTLED_FOR_S
    progress.acknowledged(reported)
    assert progress.settled() == ("c",)


def test_all_that_is_remembered_is_bounded(progress: Progress, clock: Clock) -> None:
    for number in range(MAX_SETTLED + 10):
        progress.accept(str(number), 100)
        clock.now_s += 0.01
        progress.first_token(str(number), 0, 100)
        clock.now_s += 0.01
        progress.more_tokens(str(number), 1)
        progress.end(str(number))
    assert progress.settled() == tuple(str(number) for number in range(10, MAX_SETTLED + 10))
    assert (len(progress._steps_s), len(progress._services_s)) == (REMEMBERED_STEPS, REMEMBERED_REQUESTS)
