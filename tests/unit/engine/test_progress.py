"""Progress: the load is of what runs now, and the rate of prefills that nothing disturbed."""

from __future__ import annotations

import pytest

from aloraserve.directory.base import ReplicaLoad
from aloraserve_services.engine.progress import MIN_MEASURED_TOKENS, REMEMBERED, Progress


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
    return Progress(4, clock)


def prefill(progress: Progress, clock: Clock, tokens: int, seconds: float, cached: int = 0) -> None:
    progress.accept("alone", tokens)
    clock.now_s += seconds
    progress.first_token("alone", cached, tokens + cached)
    progress.end("alone")


def rate(progress: Progress) -> float:
    return progress.load(0.0).prefill_tokens_per_s


def test_nothing_to_do_is_no_load_and_no_rate(progress: Progress) -> None:
    assert progress.load(0.25) == ReplicaLoad(kv_usage=0.25, max_requests=4)


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
    assert progress.load(0.0) == ReplicaLoad(max_requests=4)


def test_what_is_not_running_changes_nothing(progress: Progress, clock: Clock) -> None:
    progress.first_token("stranger", 0, 1000)
    progress.end("stranger")
    progress.accept("a", 100)
    progress.end("a")
    clock.now_s += 1
    progress.first_token("a", 0, 100)
    assert progress.load(0.0) == ReplicaLoad(max_requests=4)


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
