"""Intervals over runs."""

from __future__ import annotations

import pytest

from aloraserve.simulation.summary import over_seeds, student_t


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.706), (10, 2.228), (11, 2.201), (19, 2.093), (30, 2.042), (120, 1.980)]
)
def test_the_quantile_is_the_tables(freedom: int, quantile: float) -> None:
    assert student_t(freedom) == pytest.approx(quantile, abs=0.0025)


def test_many_runs_have_a_wider_interval_than_the_normal_one() -> None:
    _, halves = over_seeds([{"x": float(number % 2)} for number in range(12)])
    assert halves["x"] == pytest.approx(2.201 * (3 / 11) ** 0.5 / 12**0.5, rel=2e-3)
