"""Which versions are in memory, and which one leaves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloraserve.adapters.host_memory import HALF_LIFE_S, HostMemory


class Clock:
    """Seconds that pass as a test says."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def made(clock: Clock) -> Callable[..., HostMemory]:
    def make(capacity: int, *loaded: str, max_bytes: int = 0, size: int = 0) -> HostMemory:
        memory = HostMemory(capacity, max_bytes, clock)
        for version in loaded:
            memory.add(version, size)
            clock.now += 1.0
        return memory

    return make


def call(memory: HostMemory, version: str, times: int = 1) -> None:
    for _ in range(times):
        memory.hold(version)
        memory.release(version)


def test_nothing_leaves_while_there_is_room(made: Callable[..., HostMemory]) -> None:
    assert made(3, "a", "b").victims(0) == []


def test_of_equally_called_ones_the_one_called_longest_ago_leaves(made: Callable[..., HostMemory]) -> None:
    assert made(3, "a", "b", "c").victims(0) == ["a"]


def test_one_that_is_called_often_stays_though_others_were_called_later(
    made: Callable[..., HostMemory], clock: Clock
) -> None:
    memory = made(3, "often", "once")
    call(memory, "often", times=4)
    clock.now += 10
    memory.add("rare")
    assert memory.victims(0) == ["once"]


def test_one_that_was_called_often_leaves_once_nobody_calls_it(made: Callable[..., HostMemory], clock: Clock) -> None:
    memory = made(2, "often")
    call(memory, "often", times=4)
    clock.now += 4 * HALF_LIFE_S
    memory.add("rare")
    assert memory.victims(0) == ["often"]


def test_a_row_of_rare_adapters_evicts_rare_ones(made: Callable[..., HostMemory], clock: Clock) -> None:
    """The last call alone would have them evict everything."""
    memory = made(4, "hot-1", "hot-2")
    for hot in ("hot-1", "hot-2"):
        call(memory, hot, times=20)
    for number in range(50):
        for leaving in memory.victims(0) or ():
            memory.remove(leaving)
        memory.add(f"rare-{number}")
        clock.now += 0.5
    assert {"hot-1", "hot-2"} <= set(memory)


def test_what_is_not_served_any_more_leaves_first_however_often_it_was_called(
    made: Callable[..., HostMemory],
) -> None:
    memory = made(2, "new", "old")
    memory.pin("old", pinned=True)
    call(memory, "old", times=9)
    memory.retire("old")
    assert memory.victims(0) == ["old"]


def test_what_is_held_or_pinned_never_leaves(made: Callable[..., HostMemory]) -> None:
    memory = made(3, "held", "pinned", "other")
    memory.hold("held")
    memory.pin("pinned", pinned=True)
    assert memory.victims(0) == ["other"]
    memory.hold("other")
    assert memory.victims(0) is None
    memory.release("held")
    assert memory.victims(0) == ["held"]


def test_a_version_that_is_about_to_be_loaded_is_held_already(made: Callable[..., HostMemory]) -> None:
    memory = made(1)
    memory.hold("new")
    memory.add("new")
    assert memory.victims(0) is None


def test_as_many_leave_as_the_bytes_need(made: Callable[..., HostMemory]) -> None:
    memory = made(10, "a", "b", "c", max_bytes=300, size=100)
    assert memory.victims(50) == ["a"]
    assert memory.victims(150) == ["a", "b"]
    memory.hold("a")
    memory.hold("b")
    assert memory.victims(150) is None


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from(["load", "hold", "release", "pin"]), st.integers(0, 6)), max_size=60),
)
def test_it_never_has_more_than_it_may_nor_gives_up_what_is_needed(
    capacity: int, actions: list[tuple[str, int]]
) -> None:
    clock = Clock()
    memory, held = HostMemory(capacity, 0, clock), dict.fromkeys(map(str, range(7)), 0)
    for action, number in actions:
        version, clock.now = str(number), clock.now + 1
        if action == "hold":
            memory.hold(version)
            held[version] += 1
        elif action == "release" and held[version]:
            memory.release(version)
            held[version] -= 1
        elif action == "pin" and version in memory:
            memory.pin(version, pinned=True)
        elif action == "load" and version not in memory:
            leaving = memory.victims(0)
            for gone in leaving or ():
                assert not held[gone]
                assert gone not in memory.pinned
                memory.remove(gone)
            if leaving is not None:
                memory.add(version)
        assert len(memory) <= capacity
