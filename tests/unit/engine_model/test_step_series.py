"""Series of steps."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.engine_model.step_series import StepSeries

SERIES = st.builds(
    StepSeries,
    started_s=st.floats(0.0, 1e6),
    first_s=st.floats(1e-3, 1.0),
    growth_s=st.one_of(st.just(0.0), st.floats(1e-9, 1e-3)),
)


@given(series=SERIES, steps=st.integers(0, 200))
def test_a_series_is_the_sum_of_its_steps(series: StepSeries, steps: int) -> None:
    took_s = sum(series.first_s + series.growth_s * n for n in range(steps))
    assert series.end_s(steps) == pytest.approx(series.started_s + took_s)


@given(series=SERIES, steps=st.integers(1, 5000), part=st.floats(0.01, 0.99))
def test_within_a_step_it_and_those_before_have_begun(series: StepSeries, steps: int, part: float) -> None:
    before_s, after_s = series.end_s(steps - 1), series.end_s(steps)
    within_s = before_s + part * (after_s - before_s)
    assert (series.begun(within_s), series.ended(within_s)) == (steps, steps - 1)


@given(series=SERIES, steps=st.integers(1, 5000))
def test_a_step_has_ended_from_its_end_on_and_not_an_instant_before(series: StepSeries, steps: int) -> None:
    end_s = series.end_s(steps)
    assert (series.begun(end_s), series.ended(end_s)) == (steps, steps)
    before_s, after_s = math.nextafter(end_s, -math.inf), math.nextafter(end_s, math.inf)
    assert (series.begun(before_s), series.ended(before_s)) == (steps, steps - 1)
    assert (series.begun(after_s), series.ended(after_s)) == (steps + 1, steps)


def test_the_first_step_has_begun_at_once() -> None:
    assert StepSeries(0.0, 0.02, 0.0).begun(0.0) == 1
