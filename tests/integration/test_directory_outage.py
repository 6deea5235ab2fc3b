"""A real server that dies, hangs, restarts or loses its scripts costs time, never an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from redis.asyncio import Redis

from aloraserve.blocks import BlocksStored, EventBatch, KeySpace
from aloraserve.blocks.keys import SCHEMA
from aloraserve.directory import redis_reclaim
from aloraserve.directory.base import Candidate, ReplicaState, place
from aloraserve.directory.ingest import Ingest
from aloraserve.directory.mirror import Mirror
from aloraserve.directory.redis import RedisDirectory, holder_of
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.redis.url import redacted_url
from aloraserve.routing.base import Call
from aloraserve.routing.expected_ttft import ExpectedTtft
from aloraserve.routing.router import Router

SPACE = KeySpace("model", "tokenizer", 16)
PROMPT = tuple(range(320))
CALL = Call(len(PROMPT), 16, SPACE.keys(PROMPT))
STATE = ReplicaState("a", "")
PREFIX = f"{{aloraserve:test}}:{SCHEMA}:"


@pytest.fixture
async def directory(redis_server: Any) -> AsyncIterator[RedisDirectory]:
    opened = RedisDirectory.from_url(redis_server.url, namespace="test", timeout_s=1.0, max_calls=4)
    yield opened
    await opened.close()


@pytest.fixture
async def client(redis_server: Any) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_server.url) as opened:
        yield opened


async def eventually(check: Callable[[], Awaitable[bool]], within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not await check():
        assert time.monotonic() < deadline, "did not come true in time"
        await asyncio.sleep(0.02)


async def answers(directory: RedisDirectory) -> bool:
    with suppress(DirectoryUnavailableError):
        await directory.ping()
        return True
    return False


async def first(directory: RedisDirectory) -> Candidate:
    return (await directory.lookup(CALL.keys))[0]


def router(directory: RedisDirectory, budget_s: float = 0.05) -> Router:
    return Router(directory, ExpectedTtft(), SPACE, budget_s=budget_s, known_replicas=lambda: ["a", "b"])


async def test_the_router_falls_back_and_the_directory_fills_again(
    redis_server: Any, directory: RedisDirectory
) -> None:
    ingest = Ingest(directory, "a", "1", Mirror(SPACE, lambda _: None), max_backoff_s=0.05)
    task = asyncio.create_task(ingest.run())
    ingest.offer(EventBatch(0, (BlocksStored(tuple(range(20)), None, PROMPT),)))
    assert await ingest.drain(5)
    assert await ingest.heartbeat(STATE)
    one = router(directory, budget_s=5.0)
    assert (await one.decide(CALL)).reason == "holds 319 of 320 tokens"

    redis_server.kill()
    for _ in range(10):
        started = time.perf_counter()
        decision = await one.decide(CALL)
        assert time.perf_counter() - started < 5.0, "its error is not waited for"
        assert decision.policy == "fallback"
        assert sorted(decision.rank) == ["a", "b"]
    assert not await ingest.heartbeat(STATE)

    redis_server.start()

    async def full_again() -> bool:
        await ingest.heartbeat(STATE)
        return (await one.decide(CALL)).reason == "holds 319 of 320 tokens"

    await eventually(full_again)
    assert ingest.stats.republishes >= 1
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_hanging_server_costs_the_budget(redis_server: Any, directory: RedisDirectory) -> None:
    await directory.publish(ReplicaState("a", "1"), ttl_s=60)
    patient, one = router(directory, budget_s=5), router(directory)
    assert (await patient.decide(CALL)).policy == "expected-ttft"
    redis_server.pause()
    try:
        started = time.perf_counter()
        decision = await one.decide(CALL)
        assert time.perf_counter() - started < 5, "it would answer never"
    finally:
        redis_server.resume()
    assert "50 ms" in decision.reason
    assert (await patient.decide(CALL)).policy == "expected-ttft"


async def test_cancelled_lookups_leave_no_connection_and_no_wrong_answer(
    redis_server: Any, directory: RedisDirectory
) -> None:
    await directory.publish(ReplicaState("a", "1"), ttl_s=60)
    await directory.apply("a", "1", stored=place(CALL.keys))
    for _ in range(5):
        redis_server.pause()
        try:
            tasks = [asyncio.create_task(directory.lookup(CALL.keys)) for _ in range(12)]
            await asyncio.sleep(0.02)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            redis_server.resume()
        found = await asyncio.gather(*(directory.lookup(CALL.keys[:n]) for n in range(21)))
        assert [candidates[0].held_blocks for candidates in found] == list(range(21))


@pytest.mark.parametrize(
    "method",
    [
        lambda one: one.publish(STATE),
        lambda one: one.retire("a"),
        lambda one: one.apply("a", "1", stored=place(CALL.keys)),
        lambda one: one.lookup(CALL.keys),
        lambda one: one.claim("c", "a", "1", CALL.keys, tokens=1),
        lambda one: one.withdraw("c", "a", "1", CALL.keys),
        lambda one: one.states(),
        lambda one: one.epoch(),
        lambda one: one.join(SPACE),
        lambda one: one.reclaim(),
        lambda one: one.ping(),
    ],
)
async def test_every_method_says_so_when_the_server_is_gone(
    redis_server: Any, directory: RedisDirectory, method: Callable[[RedisDirectory], Awaitable[object]]
) -> None:
    await directory.ping()
    redis_server.kill()
    with pytest.raises(DirectoryUnavailableError, match="the directory at unix://"):
        await method(directory)


async def test_a_server_that_refuses_is_unavailable_too(directory: RedisDirectory, client: Redis) -> None:
    await client.set(f"{PREFIX}versions", "not a sorted set")
    with pytest.raises(DirectoryUnavailableError, match="WRONGTYPE"):
        await directory.lookup(CALL.keys)


async def test_scripts_are_loaded_again_when_the_server_lost_them(directory: RedisDirectory, client: Redis) -> None:
    await directory.publish(ReplicaState("a", "1"), ttl_s=60)
    await client.script_flush()
    await directory.apply("a", "1", stored=place(CALL.keys))
    assert (await first(directory)).held_blocks == 20


async def test_the_epoch_changes_with_a_flush_and_with_a_restart_from_saved_data(
    redis_server: Any, directory: RedisDirectory, client: Redis
) -> None:
    before = await directory.epoch()
    await client.flushall()
    flushed = await directory.epoch()
    await directory.publish(ReplicaState("a", "1"), ttl_s=60)
    await client.save()
    redis_server.stop()
    redis_server.start()
    await eventually(lambda: answers(directory))
    restarted = await directory.epoch()
    assert [state.replica for state in await directory.states()] == ["a"]
    ((part, first), *_) = before.items()
    assert first.content != flushed[part].content == restarted[part].content
    assert first.copy == flushed[part].copy != restarted[part].copy


async def test_every_key_is_in_the_namespaces_slot_and_all_but_the_epoch_expire(
    directory: RedisDirectory, client: Redis
) -> None:
    await directory.join(SPACE)
    await directory.publish(ReplicaState("a", "1"))
    await directory.apply("a", "1", stored=place(CALL.keys))
    await directory.claim("c", "b", "1", CALL.keys, tokens=5, unseen_from=0)
    await directory.claim("d", "b", "1", SPACE.keys([7] * 160), tokens=5)
    await directory.withdraw("d", "b", "1", SPACE.keys([7] * 160))
    await directory.retire("b")
    await directory.reclaim()
    await directory.epoch()
    names = await client.keys("*")
    assert all(name.startswith(b"{aloraserve:test}:") for name in names)
    forever = [name for name in names if await client.pttl(name) == -1]
    assert forever == [f"{PREFIX}epoch".encode()]


async def test_a_forgotten_replica_leaves_nothing(
    redis_server: Any, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_reclaim, "SUPERSEDED_S", 0.001)
    directory = RedisDirectory.from_url(redis_server.url, namespace="test", forget_s=0.1)
    await directory.publish(ReplicaState("old", "1"), ttl_s=0.05)
    await directory.apply("old", "1", stored=place(CALL.keys))
    node = f"{PREFIX}b:".encode() + CALL.keys[0]
    assert await client.hlen(node) == len(CALL.keys)
    assert await client.exists(f"{PREFIX}o:".encode() + holder_of("old", "1"))

    async def gone() -> bool:
        await directory.publish(ReplicaState("a", "1"), ttl_s=60)
        await directory.reclaim()
        return not await client.exists(node, f"{PREFIX}o:".encode() + holder_of("old", "1"))

    await eventually(gone)
    assert [state.replica for state in await directory.states()] == ["a"]
    await directory.close()


async def test_what_was_claimed_for_a_replica_that_is_gone_goes_though_others_go_on(
    directory: RedisDirectory, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_reclaim, "RECLAIM_WINDOW_S", 0.001)
    await directory.publish(ReplicaState("a", "1"), ttl_s=60)
    await directory.claim("c", "killed", "1", CALL.keys, tokens=5, ttl_s=0.05)
    await directory.claim("d", "a", "1", CALL.keys, tokens=5)

    async def gone() -> bool:
        await directory.reclaim()
        left = await client.zrange(f"{PREFIX}claimed", 0, -1), await client.hkeys(f"{PREFIX}totals")
        return left == ([b"a"], [b"a"]) and not await client.exists(f"{PREFIX}t:killed")

    await eventually(gone)


async def test_of_a_fleets_reclaims_in_a_moment_one_reads_records(
    directory: RedisDirectory, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_reclaim, "RECLAIM_WINDOW_S", 60.0)
    await directory.publish(ReplicaState("a", "1"), ttl_s=60)
    await client.config_resetstat()
    for _ in range(5):
        await directory.reclaim()
    statistics = await client.info("commandstats")
    assert statistics["cmdstat_hgetall"]["calls"] == 1


async def test_an_expired_claim_stops_no_other_and_a_withdrawn_one_leaves_no_key(
    directory: RedisDirectory, client: Redis
) -> None:
    for replica in ("a", "b"):
        await directory.publish(ReplicaState(replica, "1"), ttl_s=60)
    await directory.claim("c", "a", "1", CALL.keys, tokens=5, ttl_s=0.05, unseen_from=0)

    async def claimed_by_b() -> bool:
        return await directory.claim("d", "b", "1", CALL.keys, tokens=5, unseen_from=0)

    await eventually(claimed_by_b)
    first = f"{PREFIX}c:".encode() + CALL.keys[0]
    assert await client.exists(first)
    await directory.withdraw("d", "b", "1", CALL.keys)
    assert not await client.exists(first, f"{PREFIX}t:b")


async def test_a_states_unknown_fields_are_passed_over(directory: RedisDirectory, client: Redis) -> None:
    await directory.publish(ReplicaState("a", "1"), ttl_s=60)
    record = await client.hget(f"{PREFIX}replicas", "a")
    newer = record.replace(b'"load":{', b'"new":1,"load":{"newer":2,')
    await client.hset(f"{PREFIX}replicas", "a", newer)
    assert await directory.states() == [ReplicaState("a", "1")]


def test_a_namespace_has_no_braces() -> None:
    for namespace in ("", "a{b}"):
        with pytest.raises(ValueError, match="without braces"):
            RedisDirectory.from_url("redis://localhost", namespace=namespace)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://user:s3cret@host:6379/0", "redis://user:***@host:6379/0"),
        ("rediss://:s3cret@host", "rediss://:***@host"),
        ("redis://user:s3@cret@host", "redis://user:***@host"),
        ("unix:///tmp/x.sock?password=s3cret&db=1", "unix:///tmp/x.sock?password=***&db=1"),
        ("redis:user:s3cret@host", "redis:***"),
        ("redis://:s3cret@[bad", "<unreadable Redis URL>"),
    ],
)
def test_no_password_is_shown(url: str, shown: str) -> None:
    assert redacted_url(url) == shown


async def test_messages_show_no_password() -> None:
    directory = RedisDirectory.from_url("redis://:s3cret@127.0.0.1:1", namespace="test")
    with pytest.raises(DirectoryUnavailableError) as caught:
        await directory.ping()
    assert "s3cret" not in caught.value.message
    assert "***" in caught.value.message
    await directory.close()
