"""The time between two tokens: of all answers, the last ones first."""

from __future__ import annotations

import pytest

from aloraserve.engine_model.inter_token_time import MEMORY_S, InterTokenTime
from aloraserve.engine_model.step_stats import StepStats


@pytest.fixture
def gaps() -> InterTokenTime:
    return InterTokenTime()


def test_nothing_is_known_without_answers(gaps: InterTokenTime) -> None:
    assert gaps.seconds == 0
    gaps.add(StepStats(0.5, prefill_tokens=100))
    assert gaps.seconds == 0


def test_a_step_counts_for_each_of_its_answers(gaps: InterTokenTime) -> None:
    gaps.add(StepStats(0.1, answers=1))
    gaps.add(StepStats(0.2, prefill_tokens=500, answers=3))
    assert gaps.seconds == pytest.approx((0.1 + 3 * 0.2) / 4, rel=0.05)


def test_steps_that_are_told_together_count_as_many(gaps: InterTokenTime) -> None:
    each = InterTokenTime()
    for one in (gaps, each):
        one.add(StepStats(0.5, answers=2))
    gaps.add(StepStats(0.01, answers=2, steps=20))
    for _ in range(20):
        each.add(StepStats(0.01, answers=2))
    assert gaps.seconds == pytest.approx(each.seconds, rel=0.05)


def test_what_is_long_ago_is_forgotten(gaps: InterTokenTime) -> None:
    gaps.add(StepStats(1.0, answers=100))
    for _ in range(20):
        gaps.add(StepStats(MEMORY_S, prefill_tokens=100))
    gaps.add(StepStats(0.01, answers=1))
    assert gaps.seconds == pytest.approx(0.01, rel=0.01)
