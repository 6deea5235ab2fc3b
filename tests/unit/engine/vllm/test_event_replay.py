"""Batches in order: whatever is doubled, late or missing, and as far as a replay helps."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence

from hypothesis import given
from hypothesis import strategies as st

from aloraserve.blocks import BlocksRemoved, EventBatch
from aloraserve_services.engine.vllm.event_replay import MAX_REPLAYS, OrderedBatches


def batch(number: int) -> EventBatch:
    return EventBatch(number, (BlocksRemoved((number,)),))


async def ordered(numbers: Sequence[int], kept: Sequence[Sequence[int]] = ()) -> tuple[list[EventBatch], list[int]]:
    """Return what comes of received batches, and the replays that were asked for; each finds the next of ``kept``."""
    asked: list[int] = []

    async def received() -> AsyncIterator[EventBatch]:
        for number in numbers:
            yield batch(number)

    async def replay(start: int) -> list[EventBatch]:
        asked.append(start)
        found = kept[min(len(asked), len(kept)) - 1] if kept else ()
        return [batch(number) for number in found if number >= start]

    return [one async for one in OrderedBatches(received(), replay).batches()], asked


def contents(found: Sequence[EventBatch]) -> list[int]:
    return [event.hashes[0] for one in found for event in one.events]  # type: ignore[union-attr,misc]


@given(st.integers(0, 20), st.integers(1, 20), st.randoms(use_true_random=False))
async def test_with_a_whole_replay_nothing_is_lost_doubled_or_out_of_order(
    first: int, count: int, chance: random.Random
) -> None:
    """The first and the last batch arrive in their places; anything may happen to those between."""
    numbers = list(range(first + 1, first + count))
    some = [number for number in numbers for _ in range(chance.randrange(3))]
    chance.shuffle(some)
    found, _ = await ordered([first, *some, first + count], [range(first + count + 5)])
    assert contents(found) == list(range(first, first + count + 1))
    assert [one.sequence for one in found] == list(range(count + 1))


async def test_numbers_start_at_zero_and_nothing_is_asked_for_without_a_gap() -> None:
    found, asked = await ordered([300, 301, 302])
    assert [one.sequence for one in found] == [0, 1, 2]
    assert asked == []


async def test_a_gap_that_nobody_can_close_stays_in_the_numbers() -> None:
    found, asked = await ordered([7, 9, 10])
    assert [one.sequence for one in found] == [0, 2, 3]
    assert asked == [8]


async def test_what_a_replay_has_before_a_hole_is_used_and_the_rest_asked_for_again() -> None:
    found, asked = await ordered([0, 5], [[1, 2, 4], [3, 4]])
    assert contents(found) == [0, 1, 2, 3, 4, 5]
    assert asked == [1, 3]


async def test_a_replay_without_the_oldest_batches_closes_nothing() -> None:
    found, asked = await ordered([0, 5, 6], [[3, 4, 5]])
    assert contents(found) == [0, 5, 6]
    assert asked == [1]


async def test_a_replay_that_goes_on_losing_batches_is_not_asked_for_ever() -> None:
    found, asked = await ordered([0, 90], [[number] for number in range(1, 90)])
    assert asked == list(range(1, MAX_REPLAYS + 1))
    assert contents(found) == [0, *range(1, MAX_REPLAYS + 1), 90]


async def test_a_replay_that_runs_ahead_doubles_nothing() -> None:
    found, _ = await ordered([0, 2, 3, 4], [[1, 2, 3, 4]])
    assert contents(found) == [0, 1, 2, 3, 4]
