"""Events of a simulated engine, and what each fault does to them on the way to the replica."""

from __future__ import annotations

import asyncio

import pytest

from aloraserve.blocks import BlocksRemoved
from aloraserve_services.engine.simulated.events import SimulatedEvents
from aloraserve_services.engine.simulated.faults import EventFault


def publish(events: SimulatedEvents, *numbers: int) -> None:
    for number in numbers:
        events.publish([BlocksRemoved((number,))])


async def received(events: SimulatedEvents) -> list[tuple[int, int]]:
    """Return the number and content of each batch that is there."""
    found: list[tuple[int, int]] = []

    async def read() -> None:
        async for batch in events.batches():
            found.extend((batch.sequence, event.hashes[0]) for event in batch.events)  # type: ignore[union-attr,misc]

    reading = asyncio.create_task(read())
    for _ in range(20):
        await asyncio.sleep(0)
    reading.cancel()
    return found


async def test_batches_arrive_as_they_were_published() -> None:
    events = SimulatedEvents()
    publish(events, 10, 11)
    events.publish([])
    publish(events, 12)
    assert await received(events) == [(0, 10), (1, 11), (2, 12)]


@pytest.mark.parametrize("fault", ["drop-events", "duplicate-events", "reorder-events", "hang-events"])
async def test_what_a_replay_can_heal_leaves_no_trace(fault: EventFault) -> None:
    events = SimulatedEvents()
    publish(events, 10)
    events.inject(fault)
    publish(events, 11, 12, 13)
    events.inject(None)
    publish(events, 14)
    assert await received(events) == [(0, 10), (1, 11), (2, 12), (3, 13), (4, 14)]


async def test_lost_events_leave_a_gap_in_the_numbers() -> None:
    events = SimulatedEvents()
    publish(events, 10)
    events.inject("lose-events")
    publish(events, 11)
    events.inject(None)
    publish(events, 12)
    assert await received(events) == [(0, 10), (2, 12)]


async def test_a_replay_forgets_the_oldest() -> None:
    events = SimulatedEvents(replay_batches=2)
    publish(events, 10)
    events.inject("drop-events")
    publish(events, 11, 12)
    events.inject(None)
    publish(events, 13)
    assert await received(events) == [(0, 10), (3, 13)]


async def test_nothing_arrives_while_events_hang() -> None:
    events = SimulatedEvents()
    events.inject("hang-events")
    publish(events, 10, 11)
    assert await received(events) == []
