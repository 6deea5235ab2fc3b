"""Faults of servers, wires, replicas and events: no decision fails, none believes what is long over, all comes right.

Real servers; replicas and gateways are simulated by their real ingests, mirrors, directories and routers. Each
replica holds 10,000 blocks. A fault lasts longer than a lease, so longer ones meet no other states.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis.asyncio import Redis
from support.redis_deployments import Wire
from support.simulated_fleet import (
    BLOCK,
    CHATS,
    SPACE,
    STALE_S,
    Prompt,
    SimulatedReplica,
    eventually,
    fleet,
    prompts,
)

from aloraserve.blocks import BlocksRemoved
from aloraserve.directory import redis_scripts
from aloraserve.directory.redis import RedisDirectory
from aloraserve.redis.scripts import Script
from aloraserve.routing.expected_ttft import ExpectedTtft
from aloraserve.routing.router import Router

Open = Callable[[str], RedisDirectory]


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        def build(url: str) -> RedisDirectory:
            directory = RedisDirectory.from_url(url, namespace="test")
            stack.push_async_callback(directory.close)
            return directory

        yield build


async def test_redis_killed_and_restarted_empty(redis_server: Any, opened: Open) -> None:
    url = redis_server.url
    async with fleet(opened(url), opened(url), opened(url)) as one:
        redis_server.kill()
        await one.last(1.0)
        assert one.judge.fallbacks
        redis_server.start()
        await one.comes_right()


async def test_redis_restarted_or_flushed_while_nothing_else_happens(redis_server: Any, opened: Open) -> None:
    url = redis_server.url
    async with fleet(opened(url), opened(url), opened(url)) as one:
        redis_server.kill()
        redis_server.start()
        await one.comes_right()
        async with Redis.from_url(url) as client:
            await client.flushall()
        await one.comes_right()
        assert not any(replica.ingest.stats.push_failures for replica in one.replicas)


async def test_redis_paused(redis_server: Any, opened: Open) -> None:
    url = redis_server.url
    async with fleet(opened(url), opened(url), opened(url)) as one:
        redis_server.pause()
        try:
            await one.last()
        finally:
            redis_server.resume()
        assert one.judge.fallbacks
        await one.comes_right()


async def test_redis_refusing_writes(redis_server: Any, opened: Open) -> None:
    url = redis_server.url
    async with Redis.from_url(url) as client, fleet(opened(url), opened(url), opened(url)) as one:
        await client.config_set("maxmemory-policy", "noeviction")
        await client.config_set("maxmemory", 1 << 20)
        before = one.judge.fallbacks
        await one.last(STALE_S + 1)
        assert all(replica.ingest.stats.push_failures for replica in one.replicas)
        assert one.judge.fallbacks - before < 10, "leases and lookups go on"
        await client.config_set("maxmemory", 0)
        await one.comes_right()


async def test_redis_slow(redis_server: Any, opened: Open) -> None:
    async with Wire(redis_server.url.removeprefix("unix://")) as wire:
        gateway, *replicas = [opened(wire.url) for _ in range(3)]
        async with fleet(gateway, *replicas) as one:
            wire.delay_s = 5.0
            await one.last()
            assert one.judge.fallbacks
            wire.delay_s = 0.0
            await one.comes_right()


async def test_a_replica_killed_and_restarted_under_its_name(redis_server: Any, opened: Open) -> None:
    url = redis_server.url
    async with fleet(opened(url), opened(url), opened(url)) as one:
        dead = one.replicas[0]
        await dead.kill()
        await asyncio.sleep(STALE_S)
        decided = one.judge.decisions
        await eventually(lambda: _true(one.judge.decisions > decided + 20), 30)
        dead.start()
        await one.comes_right()
        for chat in CHATS[:2]:
            dead.hold(chat, 10)
        await one.comes_right()


async def test_a_replica_restarted_at_once_is_believed_nothing_of_its_last_life(
    redis_server: Any, opened: Open
) -> None:
    url = redis_server.url
    gateway = opened(url)
    async with fleet(gateway, opened(url), opened(url)) as one:
        again = one.replicas[0]
        await again.kill()
        again.start()
        current = again.ingest.incarnation

        async def has_begun() -> bool:
            return any(state.incarnation == current for state in await gateway.states())

        await eventually(has_begun, 20)
        for chat in CHATS:
            found = {one.state.replica: one for one in await gateway.lookup(chat.keys)}
            assert found["r0"].held_blocks == 0
            assert found["r1"].held_blocks == chat.blocks


async def test_a_replica_partitioned_from_redis_but_not_from_clients(redis_server: Any, opened: Open) -> None:
    async with Wire(redis_server.url.removeprefix("unix://")) as wire:
        gateway, far, near = opened(redis_server.url), opened(wire.url), opened(redis_server.url)
        async with fleet(gateway, far, near) as one:
            wire.cut()
            await one.last(STALE_S)
            assert [state.replica for state in await gateway.states()] == ["r1"]
            decision = await one.judge.router.decide(CHATS[9].call)
            overlaps = {estimate.replica: estimate.overlap_tokens for estimate in decision.estimates}
            assert overlaps["r0"] == 0 < overlaps["r1"]
            wire.mend()
            await one.comes_right()


async def test_events_lost_doubled_and_reordered(redis_server: Any, opened: Open) -> None:
    url = redis_server.url
    async with fleet(opened(url), opened(url), opened(url)) as one:
        loses, confuses = one.replicas
        next_one = loses.emit(BlocksRemoved(())).sequence + 1
        loses.lost = {next_one, next_one + 3}
        one.change(loses)
        doubled = confuses.emit(BlocksRemoved(()))
        confuses.ingest.offer(doubled)
        held_back = confuses.emit(BlocksRemoved(()))
        one.change(confuses)
        confuses.ingest.offer(held_back)
        for replica in one.replicas:
            await eventually(lambda replica=replica: _true(replica.ingest.stats.gaps > 0), 20)
        await one.comes_right()
        for replica in one.replicas:
            for chat in CHATS[10:]:
                replica.hold(chat, chat.blocks)
        await one.comes_right()


@pytest.mark.parametrize("skew_ms", [-60_000, 60_000])
async def test_a_clock_that_jumps_by_a_minute(
    redis_server: Any, opened: Open, skew_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = redis_server.url
    async with fleet(opened(url), opened(url), opened(url)) as one:
        dead = one.replicas[0]
        await dead.kill()
        _skew(monkeypatch, skew_ms)
        await asyncio.sleep(STALE_S)
        one.change(one.replicas[1])
        decided, fallbacks = one.judge.decisions, one.judge.fallbacks
        await eventually(lambda: _true(one.judge.decisions > decided + 20), 30)
        assert one.judge.fallbacks - fallbacks < 10
        dead.start()
        await one.comes_right()
        dead.hold(CHATS[0], 7)
        await one.comes_right()


async def test_two_gateways_racing_send_one_new_prefix_to_one_replica(redis_server: Any, opened: Open) -> None:
    url = redis_server.url
    replicas = [SimulatedReplica(f"r{number}", opened(url)) for number in range(4)]
    for replica in replicas:
        replica.start()
    directories = [opened(url), opened(url)]
    names = [replica.name for replica in replicas]
    routers = [
        Router(one, ExpectedTtft(), SPACE, budget_s=0.5, claim_budget_s=0.5, known_replicas=lambda: names)
        for one in directories
    ]
    try:
        await eventually(lambda: _all_live(directories, len(replicas)), 30)
        burst = prompts(40, 64)
        outcomes: list[str] = []
        for number, new in enumerate(burst):
            placed = await asyncio.gather(
                *(router.place(new.call, f"{number}-{gateway}") for gateway, router in enumerate(routers))
            )
            assert len({one.replica for one in placed}) == 1, [one.decision for one in placed]
            outcomes += [one.claim for one in placed]
        assert set(outcomes) <= {"claimed", "conflict"}

        async def all_counted() -> bool:
            found = await directories[0].lookup(burst[-1].keys)
            assert sorted(one.claimed_blocks for one in found) == [0, 0, 0, 64]
            return sum(one.claims for one in found) == 2 * len(burst)

        await eventually(all_counted, 30)
    finally:
        for replica in replicas:
            await replica.kill()


async def test_of_two_claims_for_one_new_prefix_on_two_replicas_one_stands(redis_server: Any, opened: Open) -> None:
    url = redis_server.url
    first, second = opened(url), opened(url)
    replicas = [SimulatedReplica(name, opened(url)) for name in ("a", "b")]
    for replica in replicas:
        replica.start()
    try:
        await eventually(lambda: _all_live([first, second], 2), 30)
        incarnations = {state.replica: state.incarnation for state in await first.states()}
        for number, new in enumerate(prompts(40, 64)):
            won = await asyncio.gather(
                first.claim(f"{number}-a", "a", incarnations["a"], new.keys, tokens=9, unseen_from=0),
                second.claim(f"{number}-b", "b", incarnations["b"], new.keys, tokens=9, unseen_from=0),
            )
            assert sum(won) == 1
            seen = [[one.claimed_blocks for one in await each.lookup(new.keys)] for each in (first, second)]
            assert seen == [[64 * won[0], 64 * won[1]]] * 2
    finally:
        for replica in replicas:
            await replica.kill()


async def test_a_gateway_that_waits_less_than_a_connection_takes_gets_one(redis_server: Any, opened: Open) -> None:
    budget_s = 0.02
    async with Wire(redis_server.url.removeprefix("unix://")) as wire:
        replica = SimulatedReplica("a", opened(redis_server.url))
        replica.start()
        chat = Prompt(1, 20)
        replica.hold(chat, 20)
        wire.greeting_s = 10 * budget_s
        router = Router(opened(wire.url), ExpectedTtft(), SPACE, budget_s=budget_s, known_replicas=lambda: ["a"])

        async def knows() -> bool:
            decision = await router.decide(chat.call)
            return decision.estimates[0].overlap_tokens >= 20 * BLOCK - 1

        try:
            await eventually(knows, 30)
        finally:
            await replica.kill()


async def test_a_gateway_in_a_hurry_opens_no_more_connections_than_it_may(redis_server: Any) -> None:
    async with Wire(redis_server.url.removeprefix("unix://")) as wire:
        directory = RedisDirectory.from_url(wire.url, namespace="test", timeout_s=0.3, max_calls=4)
        wire.cut()
        for _ in range(5):
            tasks = [asyncio.create_task(directory.lookup(CHATS[0].keys)) for _ in range(20)]
            await asyncio.sleep(0.02)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert wire.connections <= 4
        wire.mend()
        await eventually(lambda: _answers(directory), 30)
        assert wire.connections <= 8
        await directory.close()


async def _true(value: bool) -> bool:
    return value


async def _answers(directory: RedisDirectory) -> bool:
    started = time.monotonic()
    await asyncio.gather(*(directory.ping() for _ in range(4)), return_exceptions=True)
    return time.monotonic() - started < 0.3


async def _all_live(directories: list[RedisDirectory], count: int) -> bool:
    return all([len(await one.states()) == count for one in directories])


def _skew(monkeypatch: pytest.MonkeyPatch, skew_ms: int) -> None:
    """Set the clock that all scripts read off by ``skew_ms``: what a fail-over to another machine does."""
    clock = "local now = time[1] * 1000 + math.floor(time[2] / 1000)"
    scripts = {name: script for name, script in vars(redis_scripts).items() if isinstance(script, Script)}
    timed = {name: script for name, script in scripts.items() if "TIME" in script.source}
    assert len(timed) > 5
    for name, script in timed.items():
        assert script.source.count("TIME") == script.source.count(clock) == 1, f"{name} reads its clock in another way"
        skewed = Script(script.source.replace(clock, f"{clock} + ({skew_ms})"))
        monkeypatch.setattr(redis_scripts, name, skewed)
