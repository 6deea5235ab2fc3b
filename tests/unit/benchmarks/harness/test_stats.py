"""Percentiles and intervals that reports print."""

from __future__ import annotations

import random

import pytest

from benchmarks.harness.stats import mean_ratio, percentile


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """Return lower end, mean and upper end of the change that the ratios show."""
    found = mean_ratio(ratios)
    return found.low - 1, found.middle - 1, found.high - 1


def test_equal_pairs_have_an_interval_of_no_width() -> None:
    assert interval([0.9] * 10) == pytest.approx((-0.1, -0.1, -0.1))


def test_as_much_more_and_less_is_nothing() -> None:
    low, mean, high = interval([0.5, 2.0] * 10)
    assert mean == pytest.approx(0)
    assert (1 + low) * (1 + high) == pytest.approx(1)


def test_19_of_20_intervals_hold_the_truth() -> None:
    draw = random.Random(1)
    held = 0
    for _ in range(1000):
        low, _, high = interval([draw.lognormvariate(0.05, 0.2) for _ in range(8)])
        held += low <= 2.718281828**0.05 - 1 <= high
    assert 930 <= held <= 980


def test_a_percentile_is_one_of_the_values() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, share) for share in (0.0, 0.5, 0.9, 1.0)] == [1.0, 3.0, 5.0, 5.0]
    assert percentile([7.0], 0.99) == 7.0
