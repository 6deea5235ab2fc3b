"""Slots of a real cluster that move while replicas publish and push, and gateways look up and claim."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
from support.redis_deployments import Cluster, Server
from support.redis_servers import SOURCES, server_binary
from support.simulated_fleet import CHATS, Fleet, eventually, fleet

from aloraserve.directory.base import ReplicaState, place
from aloraserve.directory.redis import RedisDirectory
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.redis.scripts import Script, ScriptCall

NAMESPACE = "fleet"
PAUSE_S = 0.005
"""Between portions of a slot that moves, so that calls meet it half moved."""


@pytest.fixture(scope="module", params=["valkey-9", "redis-8"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    binary = None if request.param == "valkey-9" else server_binary(request.param)
    if request.param != "valkey-9" and binary is None:
        pytest.skip(f"{request.param} is not installed: {SOURCES[request.param]}")
    started = Cluster(tmp_path_factory.mktemp("cluster"), binary=binary)
    try:
        started.start()
        yield started
    finally:
        started.stop()


@pytest.fixture
async def directories(cluster: Cluster) -> AsyncIterator[list[RedisDirectory]]:
    """Of a gateway and two replicas."""
    async with AsyncExitStack() as stack:
        for one in cluster.primaries:
            one.client.flushall()
        opened = [RedisDirectory.from_url(cluster.url, namespace=NAMESPACE) for _ in range(3)]
        for directory in opened:
            stack.push_async_callback(directory.close)
        yield opened


@asynccontextmanager
async def meanwhile(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do something in the background until the context ends."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def claims(directory: RedisDirectory) -> AsyncIterator[None]:
    """Claim and withdraw all the time, as a gateway does for its calls."""

    async def keep_claiming() -> None:
        for number in itertools.count():
            chat = CHATS[number % len(CHATS)]
            with suppress(DirectoryUnavailableError):
                await directory.claim(f"c{number}", "r0", "1", chat.keys, tokens=5)
                await directory.withdraw(f"c{number}", "r0", "1", chat.keys)
            await asyncio.sleep(0.002)

    async with meanwhile(keep_claiming()):
        yield


@asynccontextmanager
async def changes(one: Fleet) -> AsyncIterator[None]:
    """Have the engines store and evict all the time."""

    async def keep_changing() -> None:
        while True:
            for replica in one.replicas:
                one.change(replica)
                for chat in CHATS:
                    replica.hold(chat, chat.blocks)
            await asyncio.sleep(0.02)

    async with meanwhile(keep_changing()):
        yield


def tags(directory: RedisDirectory) -> list[str]:
    """Return a key's name in the slot of a chain, and one in the fleet's."""
    return [directory.part(CHATS[0].keys[0]), f"{{aloraserve:{NAMESPACE}}}:"]


def sides(cluster: Cluster, tag: str) -> tuple[Server, Server]:
    """Return who has a tag's slot, and another server."""
    source = cluster.primaries[cluster.owner(tag)]
    return source, next(one for one in cluster.primaries if one is not source)


def told_to_try_again(cluster: Cluster) -> int:
    stats = [one.client.info("errorstats") for one in cluster.primaries]
    return sum(one.get("errorstat_TRYAGAIN", {"count": 0})["count"] for one in stats)


async def test_a_slot_that_moves_key_by_key_under_traffic_costs_no_holding_for_good(
    cluster: Cluster, directories: list[RedisDirectory]
) -> None:
    gateway = directories[0]
    before = told_to_try_again(cluster)
    async with fleet(*directories) as one:
        async with claims(gateway), changes(one):
            for tag in tags(gateway):
                source, target = sides(cluster, tag)
                # MIGRATE without REPLACE: a key that somebody made on the other side ends the move with BUSYKEY.
                await asyncio.to_thread(cluster.move_slot, tag, source, target, step=2, pause_s=PAUSE_S)
                await asyncio.to_thread(cluster.move_slot, tag, target, source, step=20)
        await one.comes_right()
    assert told_to_try_again(cluster) > before


async def test_a_slot_that_moves_at_once_costs_no_decision(cluster: Cluster, directories: list[RedisDirectory]) -> None:
    gateway = directories[0]
    if not cluster.moves_at_once:
        pytest.skip("this server moves slots key by key")
    async with fleet(*directories) as one:
        async with claims(gateway):
            for tag in tags(gateway):
                source, target = sides(cluster, tag)
                await asyncio.to_thread(cluster.move_slot_at_once, tag, source, target)
                await eventually(one.judge.is_right, 1.0)
                await asyncio.to_thread(cluster.move_slot_at_once, tag, target, source)
        await one.comes_right()


async def test_what_counts_is_done_once_while_its_slot_moves(
    cluster: Cluster, directories: list[RedisDirectory]
) -> None:
    """A counter is where a script that ran twice shows."""
    gateway = directories[0]
    add = Script("#!lua\nredis.call('INCR', KEYS[1])\nreturn redis.call('HINCRBY', KEYS[2], 'n', 1)")
    call = ScriptCall(add, ("{moving}:a", "{moving}:b"))
    done = asyncio.Event()

    async def keep_adding() -> int:
        count = 0
        while not done.is_set():
            with suppress(DirectoryUnavailableError):
                assert await gateway._scripts.run(call) > count
                count += 1
        return count

    await gateway._scripts.run(call)
    tasks = [asyncio.create_task(keep_adding()) for _ in range(4)]
    for _ in range(3):
        source, target = sides(cluster, "{moving}")
        await asyncio.to_thread(cluster.move_slot, "{moving}", source, target, step=1, pause_s=0.05)
        await asyncio.to_thread(cluster.move_slot, "{moving}", target, source, step=1, pause_s=0.05)
    done.set()
    counted = 1 + sum(await asyncio.gather(*tasks))
    assert await gateway._scripts.run(call) == counted + 1


async def test_a_call_that_meets_a_half_moved_slot_waits_within_its_own_time(
    cluster: Cluster, directories: list[RedisDirectory]
) -> None:
    gateway = RedisDirectory.from_url(cluster.url, namespace=NAMESPACE, timeout_s=0.3)
    prompt = CHATS[0].keys
    await gateway.publish(ReplicaState("a", "1"), ttl_s=60)
    await gateway.apply("a", "1", stored=place(prompt))
    tag = tags(gateway)[0]
    source, target = sides(cluster, tag)
    with cluster.half_moved(tag, source, target):
        started = asyncio.get_running_loop().time()
        with pytest.raises(DirectoryUnavailableError, match="did not answer within"):
            await gateway.lookup(prompt)
        assert 0.25 < asyncio.get_running_loop().time() - started < 3
    [found] = await gateway.lookup(prompt)
    assert found.held_blocks == len(prompt)
    await gateway.close()
