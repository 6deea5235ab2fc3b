"""What a fleet misses of replicas that left, and what replicas cost."""

from __future__ import annotations

from aloraserve.simulation.departures import WATCHED_S, Departures
from aloraserve.simulation.replica_lives import ReplicaLives, Stage

A, B, C, D = (bytes([number]) * 16 for number in range(4))


def test_only_what_nobody_else_had_is_missed_once_and_for_a_while() -> None:
    departures = Departures()
    departures.left(0.0, [A, B, C, D], [[A]])
    departures.kept([D])
    departures.computed(1.0, [A, B, D])
    departures.computed(2.0, [B])
    departures.computed(WATCHED_S + 1.0, [C])
    assert (departures.count, departures.missed_blocks) == (1, 1)


def test_a_place_is_paid_for_from_the_decision_to_the_end() -> None:
    lives = ReplicaLives.of(3, 1)
    assert lives.ask(10.0) == 1
    assert lives.ask(20.0) == 2
    assert lives.ask(20.0) is None
    assert lives.at(Stage.STARTING) == [2, 1]
    lives.end(1, 15.0)
    assert lives.total_s(30.0) == 30.0 + 5.0 + 10.0
