"""The interval that the bench prints."""

from __future__ import annotations

import random

import pytest

from aloraserve_services.cli.bench_observability import interval


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
