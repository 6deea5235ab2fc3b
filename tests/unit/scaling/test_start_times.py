"""How long replicas take to start, as seen from outside."""

from __future__ import annotations

from aloraserve.scaling.start_times import DEFAULT_START_S, StartTimes


def test_starts_are_timed_from_the_decision_to_the_replica() -> None:
    starts = StartTimes()
    assert starts.seconds == DEFAULT_START_S
    starts.seen(0.0, 1, 0)
    starts.asked(10.0, 2)
    starts.seen(11.0, 1, 2)
    starts.seen(31.0, 2, 1)
    starts.seen(51.0, 3, 0)
    assert starts.seconds == 31.0


def test_what_was_given_up_is_not_timed() -> None:
    starts = StartTimes()
    starts.seen(0.0, 1, 0)
    starts.asked(0.0, 1)
    starts.seen(5.0, 1, 0)
    starts.seen(500.0, 2, 0)
    assert starts.seconds == DEFAULT_START_S
