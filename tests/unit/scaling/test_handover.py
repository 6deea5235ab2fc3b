"""Which prefixes of a replica that leaves are computed elsewhere, where, and which adapters a new one loads."""

from __future__ import annotations

from collections import Counter

import pytest

from aloraserve.directory.base import Candidate, ReplicaLoad, ReplicaState
from aloraserve.scaling.due_adapters import due_adapters
from aloraserve.scaling.handover import misses, new_home

BLOCKS = 10


def candidate(
    name: str, held: int = 0, claimed: int = 0, waiting: int = 0, running: int = 0, *, is_leaving: bool = False
) -> Candidate:
    load = ReplicaLoad(waiting=waiting, running=running)
    state = ReplicaState(name, "1", load=load, is_leaving=is_leaving)
    return Candidate(state, held, max(held, claimed))


GOES = candidate("goes", BLOCKS)


def test_what_others_hold_or_are_about_to_have_is_left_alone() -> None:
    assert new_home(9, BLOCKS, [GOES, candidate("a"), candidate("b", held=9)], "goes") is None
    assert new_home(9, BLOCKS, [GOES, candidate("a"), candidate("b", claimed=BLOCKS)], "goes") is None


def test_the_idlest_gets_it_and_of_equals_the_one_that_has_most_of_it() -> None:
    assert new_home(9, BLOCKS, [GOES, candidate("a", running=1), candidate("b")], "goes") == "b"
    assert new_home(9, BLOCKS, [GOES, candidate("a"), candidate("b", held=4)], "goes") == "b"


def test_what_one_is_to_compute_already_counts_there_so_that_all_of_the_idle_get_some() -> None:
    given: Counter[str] = Counter()
    for _ in range(8):
        home = new_home(9, BLOCKS, [GOES, candidate("a"), candidate("b"), candidate("c", running=3)], "goes", given)
        assert home is not None
        given[home] += 1
    assert given == {"a": 4, "b": 4}


def test_nobody_gets_it_where_more_wait_than_would_miss() -> None:
    assert new_home(9, BLOCKS, [GOES, candidate("a", waiting=1)], "goes") is None
    assert new_home(9, BLOCKS, [GOES, candidate("a", running=8)], "goes") == "a"
    assert new_home(0.5, BLOCKS, [GOES, candidate("a", running=8)], "goes") is None
    assert new_home(0.5, BLOCKS, [GOES, candidate("a")], "goes") == "a"


def test_the_last_replica_and_others_that_leave_too_are_no_home() -> None:
    assert new_home(9, BLOCKS, [GOES], "goes") is None
    assert new_home(9, BLOCKS, [GOES, candidate("a", is_leaving=True)], "goes") is None
    held_by_one_that_leaves = candidate("a", held=BLOCKS, is_leaving=True)
    assert new_home(9, BLOCKS, [GOES, held_by_one_that_leaves, candidate("b")], "goes") == "b"


@pytest.mark.parametrize(("heat", "likely"), [(0, 0.0), (1, 0.5), (3, 0.875)])
def test_what_was_asked_for_often_is_likely_to_be_asked_for_again(heat: float, likely: float) -> None:
    assert misses(heat) == pytest.approx(likely)


def test_adapters_that_most_replicas_call_are_due_first() -> None:
    states = [
        ReplicaState("a", "1", active_adapters=("x",), slotted=("x", "y")),
        ReplicaState("b", "1", active_adapters=("x", "z"), slotted=("y", "z")),
        ReplicaState("c", "1", slotted=("y", "w")),
    ]
    assert due_adapters(states) == ["x", "z", "y", "w"]
