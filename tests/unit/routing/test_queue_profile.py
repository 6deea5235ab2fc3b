"""The published queue: of bounded size, and right about what is computed before a call."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.routing.queue_profile import EDGES_S, queue_profile, seconds_before

WAITING = st.lists(st.tuples(st.floats(-5, 1000), st.floats(0, 100)), max_size=200)


@given(WAITING, st.floats(0, 2000))
def test_what_is_before_a_call_is_right_within_a_bucket(waiting: list[tuple[float, float]], prefill_s: float) -> None:
    profile = queue_profile(waiting)
    low_s = max((edge for edge in EDGES_S if edge < prefill_s), default=-1.0)
    high_s = min((edge for edge in EDGES_S if edge >= prefill_s), default=float("inf"))
    slack_s = 0.001 * len(EDGES_S)
    surely = sum(seconds for number_s, seconds in waiting if number_s <= low_s)
    perhaps = sum(seconds for number_s, seconds in waiting if number_s <= high_s)
    assert surely - slack_s <= seconds_before(profile, prefill_s) <= perhaps + slack_s


@given(WAITING)
def test_its_size_does_not_depend_on_the_queue_s(waiting: list[tuple[float, float]]) -> None:
    profile = queue_profile(waiting)
    assert len(profile) <= len(EDGES_S) + 1
    assert sum(profile) == pytest.approx(sum(seconds for _, seconds in waiting), abs=0.01)
    assert seconds_before(profile, float("inf")) == pytest.approx(sum(profile))


@given(WAITING, st.floats(0, 1000), st.floats(0, 1000))
def test_a_longer_call_waits_for_no_less(waiting: list[tuple[float, float]], one_s: float, other_s: float) -> None:
    profile = queue_profile(waiting)
    short_s, long_s = sorted((one_s, other_s))
    assert seconds_before(profile, short_s) <= seconds_before(profile, long_s) + 1e-9


@given(st.floats(0.001, 500), st.integers(1, 50))
def test_calls_as_long_as_it_are_all_before_a_call(prefill_s: float, count: int) -> None:
    waiting = [(prefill_s - 0.05 * age, prefill_s) for age in range(count)]
    assert seconds_before(queue_profile(waiting), prefill_s) == pytest.approx(count * prefill_s, rel=1e-3, abs=0.01)


def test_what_has_begun_is_before_every_call() -> None:
    assert seconds_before(queue_profile([(0.0, 3.0), (0.5, 1.0), (40.0, 60.0)]), 0.0) == 3.0
    assert seconds_before(queue_profile([(0.0, 3.0), (0.5, 1.0), (40.0, 60.0)]), 2.0) == 4.0


def test_an_empty_queue_is_nothing() -> None:
    assert queue_profile([]) == ()
    assert seconds_before((), 1.0) == 0
