"""The learner finds a planted engine again at any load, whatever else the machine does meanwhile."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloraserve.directory.base import ReplicaLoad
from aloraserve.engine_model.calibration import Calibration, load, names
from aloraserve.engine_model.fleet_prior import fleet_prior
from aloraserve.engine_model.request import Request
from aloraserve.engine_model.scheduler import Scheduler
from aloraserve.engine_model.step_learner import (
    MAX_SECONDS,
    MAX_STRATA,
    MIN_SECONDS,
    SPACING_S,
    STEPS_A_STRATUM,
    StepLearner,
)
from aloraserve.engine_model.step_model import StepModel
from aloraserve.engine_model.step_stats import StepStats, squares
from aloraserve.engine_model.warm_up import warm_up_steps

PROMPTS = ((0, 64), (0, 256), (0, 1000), (0, 6000), (2000, 2100), (2000, 4000))
ANSWERS = ((1, 500), (4, 4000), (8, 8000))


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def prompt_step(model: StepModel, start: int, end: int, answers: int = 0, context: int = 0, by: int = 0) -> StepStats:
    step = StepStats(0.0, end - start, squares(start, end), by, answers, context)
    return step._replace(seconds=model.seconds(step))


def answers_step(model: StepModel, answers: int, context: int) -> StepStats:
    step = StepStats(0.0, answers=answers, context_tokens=context)
    return step._replace(seconds=model.seconds(step))


def steps_of(model: StepModel, draw: random.Random, count: int, noise: float, outliers: float) -> Iterator[StepStats]:
    for _ in range(count):
        answers = draw.choice((0, 0, 1, 2, 4, 8))
        context = answers * draw.randint(100, 3000)
        if answers and draw.random() < 0.5:
            step = answers_step(model, answers, context)
        else:
            end = int(10 ** draw.uniform(1.3, 3.9))
            start = draw.choice((0, 0, end // 2, end * 9 // 10)) // 16 * 16
            by = draw.choice((0, 0, end - start))
            step = prompt_step(model, start, end, answers, context, by)
        seconds = step.seconds * max(0.2, draw.gauss(1, noise))
        if draw.random() < outliers:
            seconds *= draw.uniform(2, 20)
        yield step._replace(seconds=seconds)


def learned(true: StepModel, seed: int, *, count: int = 400, noise: float = 0.0, outliers: float = 0.0) -> StepModel:
    clock = Clock()
    learner = StepLearner(clock=clock)
    for step in steps_of(true, random.Random(seed), count, noise, outliers):
        clock.now_s += step.seconds
        learner.add(step)
    model = learner.model()
    assert model is not None
    return model


def worst(model: StepModel, true: StepModel) -> float:
    prefills = [model.prefill.seconds(*prompt) / true.prefill.seconds(*prompt) for prompt in PROMPTS]
    decodes = [answers_step(model, *each).seconds / answers_step(true, *each).seconds for each in ANSWERS]
    return max(abs(ratio - 1) for ratio in prefills + decodes)


models = st.builds(
    StepModel,
    fixed_s=st.sampled_from([0.002, 0.006, 0.03]),
    prefill_fixed_s=st.sampled_from([0.0, 0.005]),
    answers_fixed_s=st.sampled_from([0.0, 0.005]),
    s_per_token=st.floats(2e-5, 2e-3),
    s_per_square=st.sampled_from([0.0, 1e-9, 2e-7]),
    s_per_adapter_token=st.sampled_from([0.0, 1e-4]),
    s_per_answer=st.sampled_from([0.0, 1e-4]),
    s_per_context_token=st.sampled_from([0.0, 1e-6]),
)
seeds = st.integers(0, 10_000)


@settings(max_examples=25, deadline=None)
@given(true=models, seed=seeds)
def test_a_planted_engine_is_found(true: StepModel, seed: int) -> None:
    assert worst(learned(true, seed), true) < 0.05


@settings(max_examples=25, deadline=None)
@given(true=models, seed=seeds)
def test_it_is_found_through_noise_and_other_load_on_the_machine(true: StepModel, seed: int) -> None:
    assert worst(learned(true, seed, count=800, noise=0.05, outliers=0.15), true) < 0.2


def crowded(true: StepModel, seed: int) -> StepLearner:
    """Return what is learned of short prompts, by one of two engines and more on a machine of two cores."""
    draw, clock = random.Random(seed), Clock()
    learner = StepLearner(clock=clock)

    def add(step: StepStats) -> None:
        spells = max(1, int(step.seconds / 0.3))
        seconds = step.seconds * sum(draw.choice((1, 1, 1.5, 2, 3, 4)) for _ in range(spells)) / spells
        clock.now_s += seconds
        learner.add(step._replace(seconds=seconds))

    for _ in range(40):
        start = draw.choice((0, 64, 128, 256))
        add(prompt_step(true, start, start + draw.choice((20, 60, 120, 300))))
        for _ in range(draw.choice((3, 8, 20))):
            add(answers_step(true, 1, 300))
    return learner


def test_short_prompts_on_a_crowded_machine_tell_nothing_absurd_of_longer_ones() -> None:
    """A replica that seems to take six times as long gets no calls, from which it would learn that it does not."""
    true = StepModel(fixed_s=0.05, s_per_token=9e-4, s_per_square=1.5e-7, s_per_answer=0.003)
    found = [crowded(true, seed).model() for seed in range(150)]
    shares = [model.prefill.seconds(0, 1263) / true.prefill.seconds(0, 1263) for model in found if model is not None]
    assert len(shares) == len(found)
    assert min(shares) > 0.4
    assert max(shares) < 5, max(shares)


def test_an_engine_always_has_a_rate_for_tokens() -> None:
    """Gateways take one without it for an engine that has measured nothing."""
    clock = Clock()
    learner = StepLearner(clock=clock)
    for end in range(512, 4097, 128):
        learner.add(StepStats(2e-6 * squares(0, end) - 2e-4 * end, end, squares(0, end)))
        clock.now_s += 1.0
    model = learner.model()
    assert model is not None
    assert model.s_per_token > 0
    assert model.prefill.seconds(0, 4000) == pytest.approx(2e-6 * squares(0, 4000) - 2e-4 * 4000, rel=0.5)


def busy(times: Calibration, concurrency: int, calls: int, seed: int = 0) -> Iterator[tuple[float, StepStats]]:
    """Keep a modelled engine busy, and yield its steps with when they ended."""
    draw, now_s, sent = random.Random(seed), 0.0, 0
    scheduler = Scheduler(times, kv_tokens=times.kv_tokens, block_tokens=times.block_tokens)
    while sent < calls:
        while len(scheduler.requests) < concurrency:
            scheduler.add_request(
                Request(
                    request_id=sent,
                    arrival_s=now_s,
                    prompt_keys=(),
                    num_prompt_tokens=int(10 ** draw.uniform(1.5, 3.8)),
                    max_tokens=draw.randint(4, 100),
                    adapter=draw.choice((None, "a")),
                )
            )
            sent += 1
        scheduler.schedule(now_s)
        now_s = scheduler.next_event_s
        for step in scheduler.advance(now_s).steps:
            yield now_s, step


@pytest.mark.parametrize("concurrency", [1, 8, 32])
@pytest.mark.parametrize("name", names())
def test_a_busy_engine_is_learned_within_a_tenth(name: str, concurrency: int) -> None:
    # Not one of these prompts ran alone at 8 calls at a time and more: prefills that did were all that taught before.
    times, clock = load(name), Clock()
    learner = StepLearner(clock=clock)
    for now_s, step in busy(times, concurrency, 200):
        clock.now_s = now_s
        learner.add(step)
    model = learner.model()
    assert model is not None
    for prompt in PROMPTS:
        assert model.prefill.seconds(*prompt) == pytest.approx(times.prefill.model.seconds(*prompt), rel=0.1)
    decode = times.decode
    for answers, context in ANSWERS if concurrency > 1 else ANSWERS[:1]:
        true_s = decode.fixed_s + answers * decode.s_per_sequence + context * decode.s_per_context_token
        assert answers_step(model, answers, context).seconds == pytest.approx(true_s, rel=0.1)


def test_a_pure_decoding_step_is_known_though_each_step_carries_a_chunk() -> None:
    true = StepModel(fixed_s=0.006, s_per_token=2.3e-5, s_per_context_token=4e-8)
    draw, clock = random.Random(0), Clock()
    learner = StepLearner(clock=clock)
    for _ in range(300):
        answers, width = draw.randint(1, 16), draw.choice((2048, 8192 - 16))
        learner.add(prompt_step(true, 0, width, answers, answers * draw.randint(100, 20_000)))
        clock.now_s += 0.2
    model = learner.model()
    assert model is not None
    assert answers_step(model, 8, 8000).seconds == pytest.approx(0.0063, rel=0.1)


def test_the_adapter_s_own_work_is_told_apart() -> None:
    true = StepModel(fixed_s=0.03, s_per_token=1e-3, s_per_adapter_token=5e-5)
    found = learned(true, 1, count=800, noise=0.02)
    assert found.s_per_adapter_token == pytest.approx(true.s_per_adapter_token, rel=0.3)
    assert found.s_per_token == pytest.approx(true.s_per_token, rel=0.03)


def test_the_few_tokens_of_an_alora_do_not_speak_for_a_whole_prompt_of_a_lora() -> None:
    true, draw = StepModel(fixed_s=0.03, adapter_fixed_s=0.02, s_per_token=1e-3), random.Random(5)
    clock = Clock()
    learner = StepLearner(clock=clock)
    for _ in range(300):
        end, width = int(10 ** draw.uniform(1.7, 3.6)), draw.randint(3, 40)
        for step in (prompt_step(true, 0, end), prompt_step(true, end - width, end, by=width)):
            learner.add(step._replace(seconds=step.seconds * draw.gauss(1, 0.05)))
            clock.now_s += 1.0
    model = learner.model()
    assert model is not None
    assert model.s_per_adapter_token == 0
    assert model.adapter_fixed_s == pytest.approx(true.adapter_fixed_s, rel=0.25)


steps = st.builds(
    StepStats,
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(-5, 5000),
    st.floats(0, 1e8),
    st.integers(0, 5000),
    st.integers(-5, 300),
    st.floats(0, 1e7),
    st.integers(0, 300),
)


@settings(max_examples=60, deadline=None)
@given(given_steps=st.lists(steps, max_size=60))
def test_no_part_is_ever_negative_and_nothing_odd_is_taken_in(given_steps: list[StepStats]) -> None:
    learner = StepLearner()
    for step in given_steps:
        learner.add(step)
    model = learner.model()
    usable = [
        step
        for step in given_steps
        if (step.prefill_tokens > 0 or step.answers > 0) and MIN_SECONDS <= step.seconds <= MAX_SECONDS
    ]
    assert (model is None) == (not usable)
    if model is not None:
        parts = [getattr(model, name) for name in model.__dataclass_fields__]
        assert all(math.isfinite(part) and part >= 0 for part in parts)


def test_few_steps_are_a_rate_that_one_outlier_does_not_move() -> None:
    learner = StepLearner()
    assert learner.model() is None
    for seconds in (0.1, 0.1, 9.0, 0.1, 0.1):
        learner.add(StepStats(seconds, 1000, squares(0, 1000)))
    model = learner.model()
    assert model is not None
    assert (model.prefill.fixed_s, model.s_per_square) == (0.0, 0.0)
    assert model.s_per_token == pytest.approx(1e-4, rel=0.01)


def test_a_machine_that_changed_is_learned_again() -> None:
    draw, clock = random.Random(2), Clock()
    learner = StepLearner(clock=clock)
    for rate in (1e-4, 3e-4):
        for _ in range(600):
            learner.add(prompt_step(StepModel(s_per_token=rate), 0, draw.randrange(100, 4000)))
            clock.now_s += 1.0
    model = learner.model()
    assert model is not None
    assert model.prefill.seconds(0, 2000) == pytest.approx(0.6, rel=0.1)


def test_what_was_long_ago_stops_counting_where_nothing_replaced_it() -> None:
    draw, clock = random.Random(2), Clock()
    learner = StepLearner(clock=clock)
    for rate, fewest, most in ((1e-4, 100, 4000), (3e-4, 4100, 8000)):
        for _ in range(3000):
            learner.add(prompt_step(StepModel(s_per_token=rate), 0, draw.randrange(fewest, most)))
            clock.now_s += 1.0
    model = learner.model()
    assert model is not None
    assert model.prefill.seconds(0, 6000) == pytest.approx(1.8, rel=0.1)


def test_long_prompts_stay_known_through_many_short_ones() -> None:
    true, draw, clock = StepModel(0.001, s_per_token=1e-4, s_per_square=1e-7), random.Random(3), Clock()
    learner = StepLearner(clock=clock)
    for count, fewest, most in ((40, 1000, 8000), (400, 64, 256)):
        for _ in range(count):
            learner.add(prompt_step(true, 0, draw.randrange(fewest, most)))
            clock.now_s += 0.1
    model = learner.model()
    assert model is not None
    for prompt in PROMPTS:
        assert model.prefill.seconds(*prompt) == pytest.approx(true.prefill.seconds(*prompt), rel=0.05)


def test_a_moment_of_other_load_decides_nothing_though_each_of_its_steps_is_slow() -> None:
    true, clock = StepModel(0.01, s_per_answer=1e-4), Clock()
    learner = StepLearner(clock=clock)
    for seconds, factor in ((60.0, 1), (5.0, 4)):
        until_s = clock.now_s + seconds
        while clock.now_s < until_s:
            step = answers_step(true, 1, 100)
            learner.add(step._replace(seconds=step.seconds * factor))
            clock.now_s += step.seconds * factor
    model = learner.model()
    assert model is not None
    assert answers_step(model, 1, 100).seconds == pytest.approx(0.0101, rel=0.05)


def test_it_keeps_a_bounded_number_of_steps() -> None:
    clock = Clock()
    learner = StepLearner(clock=clock)
    for bits in range(40):
        for more in range(40):
            start = 1 << more
            learner.add(StepStats(1.0, 1 << bits, squares(start, start + (1 << bits))))
            clock.now_s += SPACING_S
    assert len(learner._strata) == MAX_STRATA
    for _ in range(1000):
        learner.add(StepStats(1.0, 100, squares(0, 100)))
    assert max(len(stratum) for stratum in learner._strata.values()) <= STEPS_A_STRATUM


def test_a_known_engine_is_not_fitted_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = 0
    fit = StepLearner._fit

    def counted(learner: StepLearner) -> None:
        nonlocal fits
        fits += 1
        fit(learner)

    monkeypatch.setattr(StepLearner, "_fit", counted)
    clock = Clock()
    learner = StepLearner(clock=clock)
    for now_s, step in busy(load("h100-llama-3.1-8b"), 8, 400):
        clock.now_s = now_s
        learner.add(step)
        learner.model()
    assert 1 < fits < 40


def published(model: StepModel, running: int = 0) -> ReplicaLoad:
    prefill = model.prefill
    return ReplicaLoad(
        running=running,
        running_tokens=running * 1000,
        decode_step_s=answers_step(model, running, running * 1000).seconds if running else 0.0,
        prefill_fixed_s=prefill.fixed_s,
        prefill_s_per_token=prefill.s_per_token,
        prefill_s_per_square_token=prefill.s_per_square_token,
    )


def test_a_new_replica_begins_with_the_fleet_s_median_model() -> None:
    usual = StepModel(0.006, s_per_token=2e-5, s_per_square=1e-9, s_per_context_token=4e-8)
    odd = StepModel(1.0, s_per_token=1e-3)
    fleet = [published(usual, 1), published(usual, 8), published(odd), published(usual, 16), ReplicaLoad()]
    model = StepLearner(fleet_prior(fleet)).model()
    assert model is not None
    assert worst(model, usual) < 0.05


def test_the_fleet_s_model_yields_to_the_replica_s_own_steps() -> None:
    fleet, own = StepModel(0.006, s_per_token=2e-5, s_per_square=1e-9), StepModel(0.03, s_per_token=1e-3)
    clock, draw = Clock(), random.Random(4)
    learner = StepLearner(fleet_prior([published(fleet, 4)] * 3), clock)
    assert learner.quality.samples == 0
    for _ in range(40):
        learner.add(prompt_step(own, 0, draw.randrange(16, 2000)))
        clock.now_s += 1.0
    model = learner.model()
    assert model is not None
    assert model.prefill.seconds(0, 1000) == pytest.approx(own.prefill.seconds(0, 1000), rel=0.1)


def test_a_fleet_s_first_replica_has_nothing_to_begin_with() -> None:
    assert fleet_prior([]) == fleet_prior([ReplicaLoad()]) == []
    assert StepLearner(fleet_prior([])).model() is None


@pytest.mark.parametrize("name", names())
def test_a_warm_up_tells_how_long_short_prompts_take(name: str) -> None:
    learner = StepLearner()
    for step in warm_up_steps(load(name)):
        learner.add(step)
    model, times = learner.model(), load(name)
    assert model is not None
    for tokens in (16, 64, 256, 512):
        assert model.prefill.seconds(0, tokens) == pytest.approx(times.prefill.model.seconds(0, tokens), rel=0.1)
    assert learner.quality.samples == 4
    assert learner.knows_answers
