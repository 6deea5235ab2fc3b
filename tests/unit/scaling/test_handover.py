"""Which prefixes of a replica that leaves are computed elsewhere, where, and which adapters a new one loads."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest

from aloraserve.directory.base import Candidate, ReplicaLoad, ReplicaState
from aloraserve.scaling import handover
from aloraserve.scaling.due_adapters import due_adapters
from aloraserve.scaling.handover import MAX_HANDED_TOKENS, MAX_LOOKED_UP, PART_TOKENS, HandOverPlan, misses, parts
from aloraserve.scaling.hot_prefixes import HotPrefix

BLOCKS = 10
BLOCK_TOKENS = 1024


def candidate(
    name: str, held: int = 0, claimed: int = 0, waiting: int = 0, running: int = 0, *, is_leaving: bool = False
) -> Candidate:
    load = ReplicaLoad(waiting=waiting, running=running)
    state = ReplicaState(name, "1", load=load, is_leaving=is_leaving)
    return Candidate(state, held, max(held, claimed))


GOES = candidate("goes", BLOCKS)
new_home = partial(handover.new_home, block_tokens=BLOCK_TOKENS)


def test_what_others_hold_or_are_about_to_have_is_left_alone() -> None:
    assert new_home(9, BLOCKS, [GOES, candidate("a"), candidate("b", held=9)], "goes") is None
    assert new_home(9, BLOCKS, [GOES, candidate("a"), candidate("b", claimed=BLOCKS)], "goes") is None


def test_where_least_is_left_to_compute_it_goes_and_of_equals_to_the_idlest() -> None:
    assert new_home(9, BLOCKS, [GOES, candidate("a", running=1), candidate("b")], "goes") == "b"
    assert new_home(9, BLOCKS, [GOES, candidate("a"), candidate("b", held=4, running=1)], "goes") == "b"
    assert new_home(9, BLOCKS, [GOES, candidate("a"), candidate("b", held=4, waiting=1)], "goes") == "a"


def test_what_one_is_to_compute_already_counts_there_so_that_all_get_some() -> None:
    given: Counter[str] = Counter()
    for _ in range(9):
        others = [candidate("a", held=4), candidate("b"), candidate("c", running=3)]
        home = new_home(9, BLOCKS, [GOES, *others], "goes", given)
        assert home is not None
        given[home] += BLOCKS - (4 if home == "a" else 0)
    assert given == {"a": 30, "b": 20, "c": 20}


def test_nobody_gets_it_where_those_who_wait_lose_more_by_a_part_than_a_miss_costs() -> None:
    """A part is a fifth of these prefixes."""
    assert new_home(9, BLOCKS, [GOES, candidate("a", waiting=4)], "goes") == "a"
    assert new_home(9, BLOCKS, [GOES, candidate("a", waiting=5)], "goes") is None
    assert new_home(0.5, BLOCKS, [GOES, candidate("a", waiting=2)], "goes") is None
    assert new_home(0.5, BLOCKS, [GOES, candidate("a", running=8)], "goes") == "a", "answers go on beside parts"
    assert new_home(9, 1, [GOES, candidate("a", waiting=1)], "goes") is None
    assert new_home(9, BLOCKS, [GOES, candidate("a", held=5, waiting=3)], "goes") is None, "the rest is two parts"


@pytest.mark.parametrize(("blocks", "width", "ends"), [(5, 1024, [2, 4, 5]), (4, 1024, [2, 4]), (1, 16, [1])])
def test_a_prefix_is_computed_in_parts(blocks: int, width: int, ends: list[int]) -> None:
    assert list(parts(blocks, width)) == ends
    assert list(parts(3, 2 * PART_TOKENS)) == [1, 2, 3]


def test_no_part_is_computed_of_what_is_there() -> None:
    """Each would be a step of the engine and a rest for nothing, while calls come for the prefixes behind it."""
    assert list(parts(9, 1024, known_blocks=5)) == [7, 9]
    assert list(parts(9, 1024, known_blocks=8)) == [9]
    assert list(parts(9, 1024, known_blocks=20)) == [9]


def test_what_the_leaving_one_has_evicted_is_not_brought_back() -> None:
    """It would take the place of what was used later, in a cache that evicts by last use, too."""
    assert new_home(9, BLOCKS, [candidate("goes", held=8), candidate("a")], "goes") is None
    assert new_home(9, BLOCKS, [candidate("goes", held=9), candidate("a")], "goes") == "a"
    assert new_home(9, BLOCKS, [candidate("a")], "goes") == "a", "nothing is known of it"


def test_the_last_replica_and_others_that_leave_too_are_no_home() -> None:
    assert new_home(9, BLOCKS, [GOES], "goes") is None
    assert new_home(9, BLOCKS, [GOES, candidate("a", is_leaving=True)], "goes") is None
    held_by_one_that_leaves = candidate("a", held=BLOCKS, is_leaving=True)
    assert new_home(9, BLOCKS, [GOES, held_by_one_that_leaves, candidate("b")], "goes") == "b"


@pytest.mark.parametrize(("heat", "likely"), [(0, 0.0), (1, 0.5), (3, 0.875)])
def test_what_was_asked_for_often_is_likely_to_be_asked_for_again(heat: float, likely: float) -> None:
    assert misses(heat) == pytest.approx(likely)


def offered(plan: HandOverPlan, number: int, held: int = 0, blocks: int = BLOCKS) -> None:
    """Offer a prefix of its own, of which another replica holds some blocks."""
    keys = [bytes([number, block]) * 8 for block in range(blocks)]
    prefix = HotPrefix(range(blocks * BLOCK_TOKENS), keys[-1], 9.0)
    plan.offer(prefix, keys, [GOES, candidate("a", held), candidate("b", running=1)])


def test_of_prompts_that_begin_alike_the_beginning_counts_once_where_it_is_planned() -> None:
    plan = HandOverPlan("goes", BLOCK_TOKENS)
    document = [bytes([9, block]) * 8 for block in range(BLOCKS)]
    others = [candidate("goes", BLOCKS + 4), candidate("a"), candidate("b", running=9)]
    for number in range(8):
        keys = [*document, *(bytes([number, block]) * 8 for block in range(4))]
        plan.offer(HotPrefix(range(len(keys) * BLOCK_TOKENS), keys[-1], 9.0), keys, others)
    assert {home: len(given) for home, given in plan.homes.items()} == {"a": 4, "b": 4}, "14 blocks, then 4 each"
    assert {home: [prefix.known_blocks for prefix in given] for home, given in plan.homes.items()} == {
        "a": [0, BLOCKS, BLOCKS, BLOCKS],
        "b": [0, BLOCKS, BLOCKS, BLOCKS],
    }


def test_what_all_have_leaves_its_place_to_what_the_leaving_one_has_alone() -> None:
    """The hottest prefixes are those that are everywhere: they must not use up what is handed over."""
    plan = HandOverPlan("goes", BLOCK_TOKENS)
    for number in range(200):
        offered(plan, number, held=BLOCKS)
    assert (plan.homes, plan.is_full) == ({}, False)
    while not plan.is_full:
        offered(plan, 200 + sum(map(len, plan.homes.values())))
    tokens = BLOCKS * BLOCK_TOKENS
    assert set(plan.homes) == {"a", "b"}
    assert all((len(given) + 2) * tokens >= MAX_HANDED_TOKENS for given in plan.homes.values())
    assert sum(map(len, plan.homes.values())) * tokens < 2 * MAX_HANDED_TOKENS + tokens


def test_a_plan_has_only_so_many_prefixes_looked_up() -> None:
    plan = HandOverPlan("goes", BLOCK_TOKENS)
    for _ in range(MAX_LOOKED_UP):
        assert not plan.is_full
        offered(plan, 1, held=BLOCKS)
    assert plan.is_full


def test_adapters_that_most_replicas_call_are_due_first() -> None:
    states = [
        ReplicaState("a", "1", active_adapters=("x",), slotted=("x", "y")),
        ReplicaState("b", "1", active_adapters=("x", "z"), slotted=("y", "z")),
        ReplicaState("c", "1", slotted=("y", "w")),
    ]
    assert due_adapters(states) == ["x", "z", "y", "w"]
