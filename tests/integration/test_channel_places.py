"""Places, credits and ends of calls over a channel: nothing is lost, doubled or kept."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.channel_fleet import ChannelFleet, answered, channel_fleet, until
from support.pool_replica import CAPACITY, call_of, running

from aloraserve.directory.base import Candidate, ReplicaState
from aloraserve.routing.leaving import LeavingReplicas
from aloraserve.routing.receipts import Outcome
from aloraserve_services.channel.connection import ChannelLostError
from aloraserve_services.channel.replies import CREDITS


async def test_a_replica_without_a_connection_is_reached_by_the_handle(fleet: ChannelFleet) -> None:
    fleet.endpoints["a"] = replace(fleet.endpoints["a"], socket="/none")
    handle = Handle()
    async with fleet.gateway(handle) as (pool, links):
        assert links.by_handle == {"a"}
        async with pool.reserve(["a"]) as place:
            assert (place.replica, place.send(call_of("x"))) == ("by handle", "x")
        assert handle.ranks == [["a", "a"]]
        assert handle.held == 0


async def test_those_that_wait_go_by_the_handle_when_it_alone_reaches_a_replica(fleet: ChannelFleet) -> None:
    """A connection that is lost and cannot be opened again: nobody gives them a place any more."""
    handle = Handle()

    async def waits() -> str:
        async with pool.reserve(["a"]) as place:
            return place.replica

    async with fleet.gateway(handle) as (pool, links), contextlib.AsyncExitStack() as held:
        for number in range(CAPACITY):
            place = await held.enter_async_context(pool.reserve(["a"]))
            await place.send(call_of(f"hold-{number}")).__anext__()
        waiting = [asyncio.create_task(waits()) for _ in range(2)]
        await until(lambda: pool.waiting == 2, "the replica is full")
        fleet.endpoints["a"] = replace(fleet.endpoints["a"], socket="/none")
        links.open["a"].abort("as when its machine is cut off")
        async with asyncio.timeout(60):
            assert await asyncio.gather(*waiting) == ["by handle", "by handle"]
            assert await waits() == "by handle", "and those that come now do not wait behind them"
    assert handle.held == 0


async def test_a_call_that_was_refused_is_tried_again_when_no_connection_is_left(fleet: ChannelFleet) -> None:
    async with fleet.gateway() as (one, _), fleet.gateway(Handle()) as (two, links):
        async with contextlib.AsyncExitStack() as held:
            for number in range(CAPACITY):
                place = await held.enter_async_context(one.reserve(["a"]))
                await place.send(call_of(f"hold-{number}")).__anext__()
            refused = asyncio.create_task(answered(two))
            await until(lambda: two.waiting == 1, "it was refused and waits")
            fleet.endpoints["a"] = replace(fleet.endpoints["a"], socket="/none")
            links.open["a"].abort("as when its machine is cut off")
            async with asyncio.timeout(60):
                with pytest.raises(ChannelLostError) as caught:
                    await refused
        assert two.outcome_of(caught.value) is Outcome.LOST


class Handle:
    """A pool that notes what it is asked for."""

    def __init__(self) -> None:
        self.ranks: list[list[str]] = []
        self.held = 0

    @contextlib.asynccontextmanager
    async def reserve(self, rank: list[str], share: Any = None) -> AsyncIterator[Any]:
        self.ranks.append(rank)
        self.held += 1
        yield HandlePlace()
        self.held -= 1


class HandlePlace:
    replica = "by handle"

    def send(self, call: Any) -> str:
        return str(call.request_id)


async def test_a_slow_reader_stops_its_own_call_in_the_engine(fleet: ChannelFleet) -> None:
    replica = fleet.replicas["a"]
    async with fleet.gateway() as (pool, _), pool.reserve(["a"]) as slow:
        flood = slow.send(call_of("flood-1"))
        await flood.__anext__()
        # One is in the server's hand, which waits for a credit.
        await until(lambda: replica.flooded == CREDITS + 1, "the credits are used up")
        assert await answered(pool), "another call on the same connection goes on"
        assert replica.flooded == CREDITS + 1
        for _ in range(4 * CREDITS):
            await flood.__anext__()
        assert replica.flooded <= 6 * CREDITS
        flood.cancel()
    await until(lambda: not running(fleet.folder), "the engine has ended it")


async def test_calls_that_are_cancelled_at_any_moment_leave_no_place(fleet: ChannelFleet) -> None:
    async def begin(number: int) -> None:
        async with pool.reserve(["a"]) as place:
            replies = place.send(call_of(f"hold-{number}"))
            for _ in range(number % 3):
                await replies.__anext__()
            replies.cancel()

    async with fleet.gateway(max_queued=200) as (pool, links):
        for turn in range(20):
            tasks = [asyncio.create_task(begin(number)) for number in range(10 * turn, 10 * turn + 10)]
            for _ in range(turn):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: fleet.servers["a"].running == 0, "every place is free")
        assert (links.open["a"].in_flight, pool.waiting) == (0, 0)
        assert await answered(pool)


async def test_a_full_replica_passes_calls_of_a_second_gateway_on(tmp_path: Path) -> None:
    async with channel_fleet(tmp_path, "a", "b") as fleet, fleet.gateway() as (one, _), fleet.gateway() as (two, _):
        async with contextlib.AsyncExitStack() as stack:
            for number in range(CAPACITY):
                place = await stack.enter_async_context(one.reserve(["a"]))
                await place.send(call_of(f"hold-{number}")).__anext__()
            second = await stack.enter_async_context(two.reserve(["a", "b"]))
            assert second.replica == "a"
            replies = second.send(call_of("hold-9"))
            await replies.__anext__()
            assert second.replica == "b"
            third = await stack.enter_async_context(two.reserve(["a", "b"]))
            assert third.replica == "b", "it knows now that the first is full"
        await until(lambda: not running(tmp_path), "all have ended")
        async with two.reserve(["a", "b"]) as place:
            assert place.replica == "a", "and that it has room again"


async def test_a_call_that_finds_all_full_waits_and_goes_first(fleet: ChannelFleet) -> None:
    async with fleet.gateway() as (one, _), fleet.gateway() as (two, _):
        async with contextlib.AsyncExitStack() as stack:
            for number in range(CAPACITY):
                place = await stack.enter_async_context(one.reserve(["a"]))
                await place.send(call_of(f"hold-{number}")).__anext__()
            refused = asyncio.create_task(answered(two, "plain-1"))
            await until(lambda: two.waiting == 1, "it was refused and waits")
            behind = asyncio.create_task(answered(two, "plain-2"))
            await until(lambda: two.waiting == 2, "another waits behind it")
        assert await refused
        assert await behind


async def test_a_replica_that_drains_ends_its_calls_and_takes_no_more(tmp_path: Path) -> None:
    async with channel_fleet(tmp_path, "a", "b") as fleet, fleet.gateway() as (pool, links):
        async with pool.reserve(["a"]) as place:
            replies = place.send(call_of("plain-1", 50))
            # All of the answer, and then the connection may close, where the machine is busy before this looks.
            first = await replies.__anext__()
            draining = asyncio.create_task(fleet.servers["a"].drain(10))
            await until(lambda: "a" not in links.open or not links.open["a"].has_room(), "the gateway knows")
            async with pool.reserve(["a", "b"]) as other:
                assert other.replica == "b"
            assert [first, *[reply async for reply in replies]][-1].finish_reason == "length"
            await draining
        assert fleet.servers["a"].running == 0


async def test_a_drain_is_bounded(fleet: ChannelFleet) -> None:
    async with fleet.gateway() as (pool, _), pool.reserve(["a"]) as place:
        await place.send(call_of("hold-1")).__anext__()
        await fleet.servers["a"].drain(0.05)
        assert fleet.servers["a"].running == 1


async def test_a_replica_that_leaves_gets_no_new_calls_and_ends_what_it_has(tmp_path: Path) -> None:
    """Calls wait for the others, though it has room; only where nobody stays it goes on to serve."""
    leaving = LeavingReplicas(clock=lambda: 0.0)
    async with (
        channel_fleet(tmp_path, "a", "b") as fleet,
        fleet.gateway(leaving=leaving) as (pool, _),
        contextlib.AsyncExitStack() as held,
    ):
        begun = await held.enter_async_context(pool.reserve(["a"]))
        replies = begun.send(call_of("plain-3"))
        leaving.note([_candidate("a", leaving=True), _candidate("b")])
        places = [await held.enter_async_context(pool.reserve(["a", "b"])) for _ in range(CAPACITY)]
        assert {place.replica for place in places} == {"b"}, "also where the rank was made before the mark"
        waiting = asyncio.create_task(answered(pool))
        await until(lambda: pool.waiting == 1, "b is full, and a takes no more")
        assert [reply.text async for reply in replies], "what ran there ends whole"
        waiting.cancel()
        await asyncio.wait([waiting])
        leaving.note([_candidate("a", leaving=True), _candidate("b", leaving=True)])
        assert await answered(pool), "where all leave the calls have nowhere else to go"


def _candidate(replica: str, *, leaving: bool = False) -> Candidate:
    return Candidate(ReplicaState(replica, "1", is_leaving=leaving))


async def test_a_replica_that_serve_drops_ends_what_it_has(fleet: ChannelFleet) -> None:
    async with fleet.gateway() as (pool, links):
        async with pool.reserve(["a"]) as place:
            replies = place.send(call_of("plain-1", 20))
            first = await replies.__anext__()
            kept = fleet.endpoints.pop("a")
            links.look()
            await until(lambda: not links.open, "it is dropped")
            assert [first, *[reply async for reply in replies]][-1].finish_reason == "length"
        await until(lambda: fleet.servers["a"].connections == 0, "and closed")
        fleet.endpoints["a"] = kept
