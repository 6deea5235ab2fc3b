"""A replica that pushes everything again begins slowly and gives way to others."""

from __future__ import annotations

import random

import pytest

from aloraserve.directory.push_pace import JITTER_S, LEAST_KEYS, LEAST_PER_S, START_PER_S, PushPace


def pace(seed: int = 0) -> PushPace:
    made = PushPace(256, random.Random(seed))
    made.begin(10.0)
    return made


def play(made: PushPace, pushes: int, took_s: float) -> float:
    """Push so many times; return the keys per second of the last of them."""
    now = 11.0
    for _ in range(pushes):
        keys = made.keys
        made.done(keys, now, now + took_s)
        pause_s = made.pause_s(now)
        now += pause_s
    return keys / pause_s


def test_replicas_begin_at_moments_of_their_own() -> None:
    pauses = {pace(seed).pause_s(10.0) for seed in range(8)}
    assert len(pauses) == 8
    assert all(0 <= pause <= JITTER_S for pause in pauses)


def test_it_adds_to_its_rate_while_pushes_come_back_quickly() -> None:
    rates = [play(pace(), pushes, 0.001) for pushes in (1, 10, 100)]
    assert rates == sorted(rates)
    assert rates[0] < 2 * START_PER_S
    assert rates[-1] > 50_000


def test_it_pushes_less_and_less_often_while_others_wait() -> None:
    made = pace()
    play(made, 50, 0.001)
    assert made.keys == 256
    assert play(made, 30, 0.1) == pytest.approx(LEAST_PER_S)
    assert made.keys == LEAST_KEYS
    assert play(made, 30, 0.001) > 10 * LEAST_PER_S
    assert made.keys == 256


def test_a_backend_that_is_far_away_is_not_a_busy_one() -> None:
    made = pace()
    play(made, 1000, 0.02)
    assert play(made, 100, 0.02) > START_PER_S
