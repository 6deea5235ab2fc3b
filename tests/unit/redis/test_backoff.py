"""How long the wait before another attempt is."""

from __future__ import annotations

from aloraserve.redis.backoff import BASE_S, MOST_S, QUIET_S, Backoff


def test_waits_are_drawn_from_a_range_that_doubles_up_to_a_bound() -> None:
    backoffs = [Backoff() for _ in range(300)]
    for failures in range(1, 200):
        for backoff in backoffs:
            backoff.fail(100.0)
        waits = [backoff.not_before - 100.0 for backoff in backoffs]
        most_s = min(MOST_S, BASE_S * 2**failures)
        assert min(waits) >= 0
        assert 0.9 * most_s < max(waits) <= most_s
        assert min(waits) < 0.1 * most_s, "full jitter"


def test_a_success_starts_over() -> None:
    backoff = Backoff()
    for _ in range(20):
        backoff.fail(0.0)
    backoff.succeed()
    assert backoff.not_before == 0.0
    backoff.fail(0.0)
    assert backoff.not_before <= 2 * BASE_S


def test_failures_of_long_ago_count_no_more() -> None:
    backoff = Backoff()
    for _ in range(20):
        backoff.fail(0.0)
    backoff.fail(QUIET_S)
    assert backoff.not_before - QUIET_S <= 2 * BASE_S
