"""The contract of a pool of replicas, for connections of our own (Unix and TLS) and for Serve's handle."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from support.channel_fleet import MAX_QUEUED, channel_fleet, until
from support.pool_replica import CAPACITY, MARKED, call_of, running
from support.serve_fleet import APP, DEPLOYMENT, serve_fleet

from aloraserve.routing.receipts import Outcome
from aloraserve.serving.engine_messages import EngineRefusal, EngineUnavailable
from aloraserve.serving.replica_pool import ReplicaPool, Reservation

pytestmark = pytest.mark.timeout(180)
KINDS = ["unix", "tls", pytest.param("serve", marks=pytest.mark.ray)]


@dataclass
class Fleet:
    """Two replicas of ``CAPACITY`` calls each.

    Attributes:
        pool: of them.
        names: their ids.
        folder: what runs there.
    """

    pool: ReplicaPool
    names: Sequence[str]
    folder: Path

    async def answer(self, name: str, rank: Sequence[str]) -> tuple[str, list[Any]]:
        """Return who answered a call, and what."""
        async with self.pool.reserve(rank) as place:
            replies = [reply async for reply in place.send(call_of(name))]
            return place.replica, replies

    @contextlib.asynccontextmanager
    async def held(self, name: str, rank: Sequence[str]) -> AsyncIterator[str]:
        """Have a call run until the context ends; says where."""
        async with self.pool.reserve(rank) as place:
            replies = place.send(call_of(name))
            await replies.__anext__()
            try:
                yield place.replica
            finally:
                replies.cancel()

    async def fill(self, stack: contextlib.AsyncExitStack) -> None:
        """Take every place."""
        for number in range(len(self.names) * CAPACITY):
            await stack.enter_async_context(self.held(f"hold-{number}", self.names))

    async def idle(self) -> None:
        """Wait until nothing runs."""
        await until(lambda: not running(self.folder), "nothing runs")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    folder = tmp_path_factory.mktemp("served")
    with serve_fleet(folder, 2) as handle:
        yield handle, folder


@pytest.fixture(params=KINDS)
async def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Fleet]:
    if request.param != "serve":
        async with (
            channel_fleet(tmp_path, "a", "b", is_tls=request.param == "tls") as channel,
            channel.gateway() as (
                pool,
                _,
            ),
        ):
            yield Fleet(pool, ["a", "b"], tmp_path)
        return
    from aloraserve_services.gateway.known_replicas import known_replicas
    from aloraserve_services.gateway.serve_pool import ServePool
    from aloraserve_services.serve_requests import own_request_id

    handle, folder = request.getfixturevalue("served")
    own_request_id()
    # The first call has Serve say which replicas there are.
    await handle.options(method_name="name").remote(rank=[])
    await until(lambda: len(known_replicas(DEPLOYMENT, APP)) == 2, "both replicas are known")
    fleet = Fleet(ServePool(handle), known_replicas(DEPLOYMENT, APP), folder)
    yield fleet
    await fleet.idle()


async def test_the_first_in_rank_answers_and_each_as_the_engine_does(fleet: Fleet) -> None:
    first, second = fleet.names
    found = [await fleet.answer(f"plain-{number}", rank) for number, rank in enumerate([[first, second], [second]] * 2)]
    assert [replica for replica, _ in found] == [first, second] * 2
    texts = {"".join(chunk.text for chunk in replies) for _, replies in found}
    assert len(texts) == 1
    assert all(sum(chunk.tokens for chunk in replies) == 3 for _, replies in found)
    assert all(replies[-1].finish_reason == "length" for _, replies in found)
    assert all(replies[0].prefill_s and replies[0].savings is not None for _, replies in found)


async def test_a_reply_arrives_as_it_was_sent(fleet: Fleet) -> None:
    assert await fleet.answer("marked-1", fleet.names) == (fleet.names[0], [MARKED])
    assert (await fleet.answer("refuse-1", fleet.names))[1] == [EngineRefusal("too long", "prompt")]
    assert (await fleet.answer("unavailable-1", fleet.names))[1] == [EngineUnavailable("no such version")]


async def test_unknown_ids_are_passed_over_and_an_empty_rank_finds_somebody(fleet: Fleet) -> None:
    assert (await fleet.answer("plain-1", ["gone", fleet.names[1]]))[0] == fleet.names[1]
    assert (await fleet.answer("plain-2", []))[0] in fleet.names


async def test_a_full_replica_s_calls_go_to_the_next_in_rank(fleet: Fleet) -> None:
    async with contextlib.AsyncExitStack() as stack:
        places = [await stack.enter_async_context(fleet.held(f"hold-{n}", fleet.names)) for n in range(2 * CAPACITY)]
        assert places == [fleet.names[0]] * CAPACITY + [fleet.names[1]] * CAPACITY


async def test_calls_wait_while_all_are_full(fleet: Fleet) -> None:
    async with contextlib.AsyncExitStack() as stack:
        await fleet.fill(stack)
        waiting = asyncio.create_task(fleet.answer("plain-1", fleet.names))
        await asyncio.sleep(0)
        assert not waiting.done()
        await stack.aclose()
        assert (await waiting)[1][-1].finish_reason == "length"


async def test_one_more_than_may_wait_is_overloaded(fleet: Fleet) -> None:
    async with contextlib.AsyncExitStack() as stack:
        await fleet.fill(stack)
        tasks = [asyncio.create_task(fleet.answer(f"plain-{n}", fleet.names)) for n in range(MAX_QUEUED + 1)]
        done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert (len(done), len(waiting)) == (1, MAX_QUEUED)
        error = done.pop().exception()
        assert isinstance(error, Exception)
        assert fleet.pool.outcome_of(error) is Outcome.OVERLOADED
        await stack.aclose()
        await asyncio.gather(*waiting)


async def test_who_is_cancelled_while_it_waits_leaves_no_place_behind(fleet: Fleet) -> None:
    async with contextlib.AsyncExitStack() as stack:
        await fleet.fill(stack)
        for _ in range(2):
            tasks = [asyncio.create_task(fleet.answer(f"plain-{n}", fleet.names)) for n in range(MAX_QUEUED)]
            await asyncio.wait(tasks, timeout=0.05)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    await fleet.idle()
    async with asyncio.timeout(20):
        while not await every_place_can_be_taken(fleet):  # noqa: ASYNC110 - nobody notifies of it
            await asyncio.sleep(0.05)


async def every_place_can_be_taken(fleet: Fleet) -> bool:
    """Whether that is so by now: Serve's router notices on a thread of its own that a caller has gone."""
    try:
        async with contextlib.AsyncExitStack() as stack:
            await fleet.fill(stack)
    except Exception as error:
        if fleet.pool.outcome_of(error) is not Outcome.OVERLOADED:
            raise
        return False
    return True


async def test_a_call_that_is_cancelled_ends_in_the_engine(fleet: Fleet) -> None:
    async with fleet.held("hold-1", fleet.names):
        await until(lambda: running(fleet.folder) == {(fleet.names[0], "hold-1")}, "it runs")
    await fleet.idle()


@pytest.mark.parametrize(("name", "outcome"), [("dead-1", Outcome.ENGINE_ENDED), ("fail-1", Outcome.FAILED)])
async def test_an_error_means_whether_another_replica_may_answer(fleet: Fleet, name: str, outcome: Outcome) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011 - each pool has its own
        await fleet.answer(name, fleet.names)
    assert fleet.pool.outcome_of(raised.value) is outcome
    assert (await fleet.answer("plain-1", fleet.names))[0] == fleet.names[0], "the replica itself goes on"


async def test_calls_at_once_do_not_mix(fleet: Fleet) -> None:
    async def read(place: Reservation, number: int) -> None:
        call = replace(call_of(f"plain-{number}", 4), token_ids=[number] * 64)
        texts.setdefault(number, []).append("".join([reply.text async for reply in place.send(call)]))

    texts: dict[int, list[str]] = {}
    for _ in range(2):
        async with contextlib.AsyncExitStack() as stack:
            # One by one: Serve counts calls as waiting while it assigns them.
            places = [await stack.enter_async_context(fleet.pool.reserve(fleet.names)) for _ in range(2 * CAPACITY)]
            await asyncio.gather(*(read(place, number) for number, place in enumerate(places)))
    assert all(len(set(same)) == 1 for same in texts.values())
    assert len({same[0] for same in texts.values()}) > 1
