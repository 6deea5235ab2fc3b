"""Intervals by the bootstrap: against formulas where there are some, and what must hold of any."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloraserve.training.bootstrap import Estimate, Measure, difference, estimate, gain_ratio
from aloraserve.training.metrics import error_rate, macro_f1, mean

BITS = st.lists(st.sampled_from((0.0, 1.0)), min_size=1, max_size=60)


def test_the_interval_of_a_share_is_the_normal_one_where_that_holds() -> None:
    found = estimate(mean([1.0] * 300 + [0.0] * 700), seed=1)
    half = 1.96 * math.sqrt(0.3 * 0.7 / 1000)
    assert found.value == 0.3
    assert (found.low, found.high) == (pytest.approx(0.3 - half, abs=0.004), pytest.approx(0.3 + half, abs=0.004))
    assert found.items == 1000


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(5)
    hits = 0
    for number in range(200):
        found = estimate(mean(list(generator.normal(2.0, 1.0, 60))), seed=number, resamples=400)
        hits += found.low <= 2.0 <= found.high
    assert 178 <= hits <= 198


@settings(max_examples=40, deadline=None)
@given(BITS, st.integers(0, 5))
def test_an_interval_holds_its_figure_and_depends_on_nothing_but_items_and_seed(bits: list[float], seed: int) -> None:
    found = estimate(mean(bits), seed=seed, resamples=100)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found == estimate(mean(bits), seed=seed, resamples=100)


def test_resamples_that_do_not_fit_into_memory_at_once_are_drawn_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [float(number % 7) for number in range(50)]
    monkeypatch.setattr("aloraserve.training.bootstrap._DRAWN_AT_ONCE", 120)
    found = estimate(mean(values), resamples=301)
    assert found.low < found.value < found.high


def test_a_difference_is_drawn_on_the_same_items() -> None:
    generator = np.random.default_rng(0)
    noise = generator.normal(0, 10, 200)
    found = difference(mean(list(noise + 1)), mean(list(noise)))
    assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1))


def test_a_difference_of_figures_that_are_no_means_is_theirs() -> None:
    truth, good, bad = ["Y", "N"] * 40, ["Y", "N"] * 40, ["Y", "Y"] * 40
    found = difference(macro_f1(truth, good), macro_f1(truth, bad))
    assert found.value == pytest.approx(1 - (2 / 3 + 0) / 2)
    assert found.low > 0.5


def test_a_gain_ratio_says_how_much_of_the_gain_is_kept() -> None:
    truth, peft, base = [1] * 100, [1] * 90 + [0] * 10, [1] * 50 + [0] * 50
    served = [1] * 80 + [0] * 20
    found = gain_ratio(error_rate(truth, served), error_rate(truth, peft), error_rate(truth, base))
    assert found.value == pytest.approx(0.75)
    assert 0.5 < found.low < 0.75 < found.high < 1
    same = gain_ratio(error_rate(truth, peft), error_rate(truth, peft), error_rate(truth, base))
    assert (same.value, same.low, same.high) == (1, 1, 1)


def test_a_gain_ratio_to_no_gain_has_no_value() -> None:
    figures = error_rate([1, 1], [1, 0])
    found = gain_ratio(figures, figures, figures)
    assert all(map(math.isnan, (found.value, found.low, found.high)))


def test_intervals_apart_are_told_from_those_that_overlap() -> None:
    low, high, middle = Estimate(0.1, 0.0, 0.2, 9), Estimate(0.5, 0.4, 0.6, 9), Estimate(0.3, 0.15, 0.45, 9)
    assert low.is_below(high)
    assert high.is_above(low)
    assert not low.is_below(middle)
    assert not high.is_above(middle)


def test_figures_of_nothing_and_of_other_items_are_refused() -> None:
    with pytest.raises(ValueError, match="no items; at least one"):
        mean([])
    with pytest.raises(ValueError, match="2, 3 items are compared"):
        difference(mean([1, 2]), mean([1, 2, 3]))


def test_any_function_of_means_has_an_interval() -> None:
    pairs = np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]])
    found = estimate(Measure(pairs, lambda means: means[:, 1] / means[:, 0]))
    assert (found.value, found.low, found.high) == (2, 2, 2)
