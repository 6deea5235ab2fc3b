"""What arrives, from counts that gateways publish."""

from __future__ import annotations

import random

import pytest

from aloraserve.scaling.arrivals import MAX_SAMPLES, Arrivals
from aloraserve.scaling.base import Demand


def demand(calls: float, gateway: str = "g", **more: float) -> Demand:
    counts = {
        "prefill_s": calls * 0.2,
        "prefill_squares_s2": calls * 0.06,
        "answer_tokens": calls * 50,
        "answers": calls,
    }
    return Demand(gateway, 0.0, calls=int(calls), **(counts | more))  # type: ignore[arg-type]


def played(rates: list[float]) -> Arrivals:
    arrivals, calls = Arrivals(), 0.0
    for second, rate in enumerate(rates):
        calls += rate
        arrivals.add(float(second), [demand(calls)])
    return arrivals


def test_rates_are_the_gateways_sum() -> None:
    arrivals = Arrivals()
    for second in range(60):
        arrivals.add(float(second), [demand(4 * second, "g"), demand(6 * second, "h")])
    rates = arrivals.rates(0.0)
    assert rates.calls == pytest.approx(10)
    assert rates.call_prefill_s == pytest.approx(0.2)
    assert rates.call_squares_s2 == pytest.approx(0.06)
    assert rates.call_answer_tokens == pytest.approx(50)


def test_a_gateway_that_comes_starts_again_or_goes_brings_no_calls_of_before() -> None:
    arrivals = Arrivals()
    arrivals.add(0.0, [demand(1000)])
    arrivals.add(10.0, [demand(1010), demand(5000, "h")])
    arrivals.add(20.0, [demand(3, "g2"), demand(5010, "h")])
    assert arrivals.rates(0.0).calls == pytest.approx(1.0)


def test_a_rise_counts_at_once_and_a_trend_goes_on() -> None:
    arrivals = played([5.0] * 120 + [50.0] * 10)
    assert arrivals.rates(0.0).calls > 35
    rising = played([5.0] * 60 + [5.0 + 0.5 * second for second in range(60)])
    assert rising.rates(30.0).calls > 35 + 10


def test_chance_is_no_rise() -> None:
    chance = random.Random(1)
    calls = [sum(chance.random() < 0.05 for _ in range(200)) for _ in range(240)]
    rates = [played([float(new) for new in calls[:end]]).rates(30.0).calls for end in range(150, 240, 10)]
    assert max(rates) < 13


def test_tokens_that_run_are_not_an_answer_each() -> None:
    arrivals = Arrivals()
    arrivals.add(0.0, [demand(0)])
    arrivals.add(5.0, [demand(100, answer_tokens=5000, answers=1)])
    assert arrivals.rates(0.0).call_answer_tokens == 100
    arrivals = Arrivals()
    arrivals.add(0.0, [demand(0)])
    arrivals.add(5.0, [demand(100, answers=0)])
    assert arrivals.rates(0.0).call_answer_tokens == 50


def test_a_call_without_an_estimate_or_an_answer_says_nothing_of_what_calls_are_like() -> None:
    arrivals = Arrivals()
    arrivals.add(0.0, [demand(0)])
    arrivals.add(
        5.0, [demand(1000, prefill_s=20.0, unestimated=900, answers=10, ended_tokens=1500, answer_tokens=9000)]
    )
    rates = arrivals.rates(0.0)
    assert (rates.calls, rates.call_prefill_s, rates.call_answer_tokens) == (200, 0.2, 150)


def test_history_is_bounded() -> None:
    assert len(played([1.0] * (2 * MAX_SAMPLES))._history) == MAX_SAMPLES
