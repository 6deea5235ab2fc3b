"""The learner finds a planted model again, whatever else the machine does meanwhile."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloraserve.routing.prefill_learner import (
    MAX_SECONDS,
    MAX_STRATA,
    MIN_SECONDS,
    SAMPLES_A_STRATUM,
    PrefillLearner,
)
from aloraserve.routing.prefill_model import PrefillModel

LENGTHS = (128, 512, 2000, 6000)


def learned(
    true: PrefillModel, seed: int, *, samples: int = 120, noise: float = 0.0, outliers: float = 0.0
) -> PrefillModel:
    draw, learner = random.Random(seed), PrefillLearner()
    for _ in range(samples):
        prompt = int(10 ** draw.uniform(1.9, 3.9))
        cached = draw.choice((0, 0, prompt // 2, prompt * 9 // 10)) // 16 * 16
        seconds = true.seconds(cached, prompt) * max(0.2, draw.gauss(1, noise))
        if draw.random() < outliers:
            seconds *= draw.uniform(2, 20)
        learner.add(cached, prompt, seconds)
    model = learner.model()
    assert model is not None
    return model


def worst(model: PrefillModel, true: PrefillModel) -> float:
    ranges = [(0, end) for end in LENGTHS] + [(end // 2, end) for end in LENGTHS]
    return max(abs(model.seconds(*one) / true.seconds(*one) - 1) for one in ranges)


models = st.builds(
    PrefillModel,
    st.sampled_from([0.0, 0.002, 0.03]),
    st.floats(5e-5, 2e-3),
    st.sampled_from([0.0, 1e-8, 2e-7]),
)
seeds = st.integers(0, 10_000)


@settings(max_examples=25, deadline=None)
@given(true=models, seed=seeds)
def test_a_planted_model_is_found(true: PrefillModel, seed: int) -> None:
    assert worst(learned(true, seed), true) < 0.03


@settings(max_examples=25, deadline=None)
@given(true=models, seed=seeds)
def test_it_is_found_through_noise_and_outliers(true: PrefillModel, seed: int) -> None:
    assert worst(learned(true, seed, samples=300, noise=0.04, outliers=0.15), true) < 0.12


def test_its_parts_are_found() -> None:
    true = PrefillModel(0.02, 2e-4, 4e-8)
    found = learned(true, 3, samples=300, noise=0.03, outliers=0.15)
    assert found.fixed_s == pytest.approx(true.fixed_s, rel=0.15)
    assert found.s_per_token == pytest.approx(true.s_per_token, rel=0.1)
    assert found.s_per_square_token == pytest.approx(true.s_per_square_token, rel=0.15)


samples = st.tuples(st.integers(-5, 5000), st.integers(-5, 5000), st.floats(allow_nan=True, allow_infinity=True))


@settings(max_examples=40, deadline=None)
@given(given_samples=st.lists(samples, max_size=60))
def test_no_part_is_ever_negative_and_nothing_odd_is_taken_in(given_samples: list[tuple[int, int, float]]) -> None:
    learner = PrefillLearner()
    for one in given_samples:
        learner.add(*one)
    model = learner.model()
    usable = [one for one in given_samples if 0 <= one[0] < one[1] and MIN_SECONDS <= one[2] <= MAX_SECONDS]
    assert (model is None) == (not usable)
    if model is not None:
        assert model.s_per_token > 0
        assert min(model.fixed_s, model.s_per_square_token) >= 0


def test_few_samples_are_a_rate_that_one_outlier_does_not_move() -> None:
    learner = PrefillLearner()
    assert learner.model() is None
    for seconds in (0.1, 0.1, 9.0, 0.1, 0.1):
        learner.add(0, 1000, seconds)
    assert learner.model() == PrefillModel(0.0, pytest.approx(1e-4), 0.0)


def test_one_length_is_a_rate() -> None:
    learner, draw = PrefillLearner(), random.Random(1)
    for _ in range(100):
        learner.add(0, 1000, 0.1 * draw.gauss(1, 0.05))
    model = learner.model()
    assert model is not None
    assert (model.fixed_s, model.s_per_square_token) == (0.0, 0.0)
    assert model.s_per_token == pytest.approx(1e-4, rel=0.05)


def test_a_machine_that_changed_is_learned_again() -> None:
    draw, learner = random.Random(2), PrefillLearner()
    for rate in (1e-4, 3e-4):
        for _ in range(300):
            prompt = draw.randrange(100, 4000)
            learner.add(0, prompt, prompt * rate)
    model = learner.model()
    assert model is not None
    assert model.seconds(0, 2000) == pytest.approx(0.6, rel=0.1)


def test_what_was_long_ago_stops_counting_where_nothing_replaced_it() -> None:
    draw, learner = random.Random(2), PrefillLearner()
    for _ in range(300):
        prompt = draw.randrange(100, 4000)
        learner.add(0, prompt, prompt * 1e-4)
    for _ in range(3000):
        prompt = draw.randrange(4100, 8000)
        learner.add(0, prompt, prompt * 3e-4)
    model = learner.model()
    assert model is not None
    assert model.seconds(0, 6000) == pytest.approx(1.8, rel=0.1)


def test_long_prompts_stay_known_through_many_short_ones() -> None:
    true, learner, draw = PrefillModel(0.001, 1e-4, 1e-7), PrefillLearner(), random.Random(3)
    for _ in range(40):
        prompt = draw.randrange(1000, 8000)
        learner.add(0, prompt, true.seconds(0, prompt))
    for _ in range(400):
        prompt = draw.randrange(64, 256)
        learner.add(0, prompt, true.seconds(0, prompt))
    model = learner.model()
    assert model is not None
    assert worst(model, true) < 0.05


def test_it_keeps_a_bounded_number_of_samples() -> None:
    learner = PrefillLearner()
    for bits in range(40):
        for more in range(40):
            for _ in range(2):
                learner.add((1 << more) - 1, (1 << more) + (1 << bits), 1.0)
    assert len(learner._strata) == MAX_STRATA
    for _ in range(1000):
        learner.add(0, 100, 1.0)
    assert max(len(stratum) for stratum in learner._strata.values()) <= SAMPLES_A_STRATUM
