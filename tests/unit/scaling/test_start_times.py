"""How long replicas take to start, as seen from outside."""

from __future__ import annotations

from aloraserve.scaling.start_times import DEFAULT_START_S, MOST_START_S, StartTimes


def test_starts_are_timed_from_the_decision_to_the_replica() -> None:
    starts = StartTimes()
    assert starts.seconds == DEFAULT_START_S
    starts.seen(0.0, 1, 0)
    starts.asked(10.0, 2, 3)
    starts.seen(11.0, 1, 2)
    starts.seen(31.0, 2, 1)
    starts.seen(51.0, 3, 0)
    assert starts.seconds == 31.0


def test_what_was_given_up_is_not_timed() -> None:
    starts = StartTimes()
    starts.seen(0.0, 1, 0)
    starts.asked(0.0, 1, 2)
    starts.seen(4.0, 1, 1)
    starts.seen(5.0, 1, 0)
    starts.seen(500.0, 2, 0)
    assert starts.seconds == DEFAULT_START_S


def test_a_start_is_timed_though_it_was_seen_late() -> None:
    starts = StartTimes()
    starts.seen(0.0, 1, 0)
    starts.asked(0.0, 1, 2)
    starts.seen(1.0, 1, 0)
    starts.seen(2.0, 1, 1)
    starts.seen(30.0, 2, 0)
    assert starts.seconds == 30.0


def test_what_is_not_wanted_any_more_is_not_timed() -> None:
    starts = StartTimes()
    starts.seen(0.0, 1, 0)
    starts.asked(0.0, 2, 3)
    starts.lowered(2)
    starts.seen(25.0, 2, 0)
    starts.seen(500.0, 3, 0)
    assert starts.seconds == 25.0


def test_who_was_never_seen_is_not_awaited_for_ever() -> None:
    starts = StartTimes()
    starts.seen(0.0, 1, 0)
    starts.asked(0.0, 1, 9)
    starts.seen(MOST_START_S + 1, 1, 0)
    starts.seen(MOST_START_S + 2, 2, 0)
    assert starts.seconds == DEFAULT_START_S


def test_those_that_start_will_have_run_a_while() -> None:
    starts = StartTimes()
    starts.seen(0.0, 1, 0)
    starts.asked(0.0, 2, 3)
    assert starts.soon_s(10.0, 30.0) == 20.0
    assert starts.soon_s(90.0, 30.0) == 60.0
