"""A replica that pushes everything again begins with little and gives way to others."""

from __future__ import annotations

import random

import pytest

from aloraserve.directory.push_pace import JITTER_S, LEAST_KEYS, LEAST_REST_S, MAX_REST, PushPace


def pace(seed: int = 0) -> PushPace:
    made = PushPace(256, random.Random(seed))
    made.begin()
    return made


def play(made: PushPace, pushes: int, took_s: float, woke_late_s: float = 0.0) -> None:
    for _ in range(pushes):
        made.done(took_s, woke_late_s)


def test_replicas_begin_with_little_at_moments_of_their_own() -> None:
    made = [pace(seed) for seed in range(8)]
    assert len({one.rest_s() for one in made}) == 8
    assert all(one.rest_s() <= JITTER_S and one.keys == LEAST_KEYS for one in made)


def test_it_adds_to_its_pushes_while_they_come_back_quickly() -> None:
    made = pace()
    play(made, 2, 0.001)
    assert made.keys == 3 * LEAST_KEYS
    play(made, 100, 0.001)
    assert (made.keys, made.rest_s()) == (256, LEAST_REST_S)


def test_it_halves_its_pushes_and_rests_longer_while_others_wait() -> None:
    made = pace()
    play(made, 50, 0.001)
    play(made, 1, 0.01)
    assert made.keys == 128
    assert made.rest_s() == pytest.approx(0.005)
    play(made, 100, 0.01)
    assert made.keys == LEAST_KEYS
    assert made.rest_s() == pytest.approx(MAX_REST * 0.01)
    play(made, 100, 0.001)
    assert (made.keys, made.rest_s()) == (256, LEAST_REST_S)


def test_a_process_that_is_busy_itself_does_not_slow_down() -> None:
    made = pace()
    play(made, 100, 0.02, woke_late_s=0.018)
    assert (made.keys, made.rest_s()) == (256, LEAST_REST_S)


def test_a_backend_that_is_far_away_is_not_a_busy_one() -> None:
    made = pace()
    play(made, 2000, 0.02)
    assert (made.keys, made.rest_s()) == (256, LEAST_REST_S)
