"""Series of steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.engine_model.step_series import series_s, steps_begun

FIRST_S = st.floats(1e-3, 1.0)
GROWTH_S = st.one_of(st.just(0.0), st.floats(1e-9, 1e-3))


@given(first_s=FIRST_S, growth_s=GROWTH_S, steps=st.integers(0, 200))
def test_a_series_is_the_sum_of_its_steps(first_s: float, growth_s: float, steps: int) -> None:
    assert series_s(first_s, growth_s, steps) == pytest.approx(sum(first_s + growth_s * n for n in range(steps)))


@given(first_s=FIRST_S, growth_s=GROWTH_S, steps=st.integers(1, 5000), part=st.floats(0.01, 0.99))
def test_within_a_step_it_and_those_before_have_begun(first_s: float, growth_s: float, steps: int, part: float) -> None:
    before, after = series_s(first_s, growth_s, steps - 1), series_s(first_s, growth_s, steps)
    assert steps_begun(first_s, growth_s, before + part * (after - before)) == steps
    assert steps_begun(first_s, growth_s, after) == steps


def test_the_first_step_has_begun_at_once() -> None:
    assert steps_begun(0.02, 0.0, 0.0) == 1
