from __future__ import annotations

import pytest

from aloraserve.routing.breaker import FIRST_OPEN_S, Breaker


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(failures=2, open_s=1.0, clock=clock)


def test_it_opens_after_failures_in_a_row(breaker: Breaker) -> None:
    breaker.fail()
    breaker.succeed()
    breaker.fail()
    assert breaker.closed
    assert breaker.allow()
    breaker.fail()
    assert not breaker.closed
    assert not breaker.allow()


def test_half_open_lets_one_through(breaker: Breaker, clock: Clock) -> None:
    breaker.fail()
    breaker.fail()
    clock.now = 1.0
    assert [breaker.allow() for _ in range(3)] == [True, False, False]


def test_a_trial_that_works_closes_it(breaker: Breaker, clock: Clock) -> None:
    breaker.fail()
    breaker.fail()
    clock.now = 1.0
    assert breaker.allow()
    breaker.succeed()
    assert breaker.closed
    assert breaker.allow()


def test_a_trial_that_fails_opens_it_again_for_twice_as_long_up_to_a_limit(breaker: Breaker, clock: Clock) -> None:
    breaker.fail()
    breaker.fail()
    for open_s in (FIRST_OPEN_S, 2 * FIRST_OPEN_S, 4 * FIRST_OPEN_S, 8 * FIRST_OPEN_S, 16 * FIRST_OPEN_S, 1.0, 1.0):
        clock.now += open_s - 0.001
        assert not breaker.allow()
        clock.now += 0.002
        assert breaker.allow()
        breaker.fail()


def test_once_closed_it_first_opens_shortly_again(breaker: Breaker, clock: Clock) -> None:
    for _ in range(5):
        breaker.fail()
        clock.now += 1.0
    breaker.succeed()
    breaker.fail()
    breaker.fail()
    clock.now += FIRST_OPEN_S
    assert breaker.allow()


def test_a_trial_that_never_reports_back_is_followed_by_another(breaker: Breaker, clock: Clock) -> None:
    breaker.fail()
    breaker.fail()
    clock.now = 1.0
    assert breaker.allow()
    clock.now = 2.0
    assert breaker.allow()
