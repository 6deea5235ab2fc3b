"""What keeps a directory true and small: pushes made again, generations, reclaiming, and prompts of any length."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from support.own_valkey import socket_url, valkey_server
from support.redis_fixtures import url_of

from aloraserve.blocks import KeySpace
from aloraserve.directory import memory as memory_backend
from aloraserve.directory import redis as redis_backend
from aloraserve.directory import redis_lookup, redis_reclaim
from aloraserve.directory.base import (
    MAX_APPLY_BLOCKS,
    MAX_FORMER,
    MAX_LOOKUP_BLOCKS,
    RUN_BLOCKS,
    Directory,
    Holding,
    ReplicaLoad,
    ReplicaState,
    place,
)
from aloraserve.directory.memory import MemoryDirectory
from aloraserve.directory.redis import RedisDirectory
from aloraserve.directory.redis_encoding import holder_of
from aloraserve.routing.base import Call
from aloraserve.routing.expected_ttft import ExpectedTtft
from aloraserve.routing.router import Router

SPACE = KeySpace("m", "t", 1)
LONG = SPACE.keys(range(70 * RUN_BLOCKS + 5))
NAMESPACE = "upkeep"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (redis_reclaim, "SUPERSEDED_S"),
        (redis_reclaim, "RECLAIM_WINDOW_S"),
        (redis_backend, "SUPERSEDED_S"),
        (redis_backend, "REPORT_EVERY_S"),
        (memory_backend, "LEASE_TTL_S"),
    ):
        monkeypatch.setattr(module, name, 0.001)


@pytest.fixture(params=["memory", "redis", "declared-keys"])
async def directory(request: pytest.FixtureRequest) -> AsyncIterator[Directory]:
    opened: Directory
    if request.param == "memory":
        opened = MemoryDirectory()
    else:
        opened = RedisDirectory.from_url(url_of(request, request.param), namespace=NAMESPACE, timeout_s=5.0)
    yield opened
    await opened.close()


@pytest.fixture
async def in_redis(redis_server: Any) -> AsyncIterator[RedisDirectory]:
    directory = RedisDirectory.from_url(redis_server.url, namespace=NAMESPACE, timeout_s=5.0)
    yield directory
    await directory.close()


@pytest.fixture
async def client(redis_server: Any) -> AsyncIterator[Any]:
    async with Redis.from_url(redis_server.url) as opened:
        yield opened


async def alive(directory: Directory, replica: str = "a", incarnation: str = "1") -> None:
    await directory.publish(ReplicaState(replica, incarnation), ttl_s=60)


async def store(
    directory: Directory, holdings: list[Holding], replica: str = "a", incarnation: str = "1", **options: Any
) -> None:
    for start in range(0, len(holdings), MAX_APPLY_BLOCKS):
        part = holdings[start : start + MAX_APPLY_BLOCKS]
        await directory.apply(replica, incarnation, stored=part, **options)


async def found(directory: Directory, keys: list[bytes]) -> dict[str, tuple[int, int]]:
    candidates = await directory.lookup(keys)
    return {one.state.replica: (one.fast_blocks, one.held_blocks) for one in candidates}


class TestPushes:
    async def test_a_push_that_was_given_up_has_no_effect_once_it_was_made_again(self, directory: Directory) -> None:
        await alive(directory)
        placed = place(LONG[:40])
        await store(directory, placed, fence=1)
        await directory.apply("a", "1", removed=placed[20:], fence=2)
        await store(directory, placed, fence=1)
        assert await found(directory, LONG[:40]) == {"a": (20, 20)}
        await store(directory, placed, fence=2)
        assert await found(directory, LONG[:40]) == {"a": (40, 40)}

    async def test_a_push_strikes_off_what_earlier_incarnations_had_of_its_blocks(self, directory: Directory) -> None:
        placed = place(LONG[:40])
        await alive(directory, "b")
        await store(directory, placed, "b")
        for incarnation in ("1", "2"):
            await store(directory, placed, incarnation=incarnation)
        await store(directory, placed[:30], incarnation="3", former=("1", "2"))
        for incarnation, blocks in (("1", 0), ("2", 0), ("3", 30)):
            await alive(directory, incarnation=incarnation)
            assert await found(directory, LONG[:40]) == {"a": (blocks, blocks), "b": (40, 40)}
        # All that reclaiming finds is what the last push did not name.
        await asyncio.sleep(0.003)
        assert await directory.reclaim() == 2 * 10

    async def test_a_push_learns_that_earlier_ones_of_its_incarnation_were_freed(
        self, directory: Directory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        part = directory.part(LONG[0])
        placed = place(LONG[:200])
        assert await directory.apply("a", "1", stored=placed) == {part}
        assert not await directory.apply("a", "1", stored=placed[:1])
        await alive(directory, incarnation="2")
        await asyncio.sleep(0.003)
        assert await directory.reclaim(max_fields=64) >= 64
        assert await directory.apply("a", "1", stored=placed[:1]) == {part}
        assert not await directory.apply("a", "1", stored=placed[:1])

    async def test_more_earlier_incarnations_than_accepted_are_refused(self, directory: Directory) -> None:
        names = tuple(str(number) for number in range(MAX_FORMER + 1))
        with pytest.raises(ValueError, match=f"5 earlier incarnations in one apply; at most {MAX_FORMER}"):
            await directory.apply("a", "9", stored=place(LONG[:1]), former=names)

    async def test_the_same_pushed_again_changes_nothing_and_renews(
        self, in_redis: RedisDirectory, client: Any
    ) -> None:
        await alive(in_redis)
        placed = place(LONG[:40])
        await store(in_redis, placed)
        node = await _node(client, LONG, 0)
        before = await client.hgetall(node)
        await client.pexpire(node, 1000)
        await store(in_redis, placed)
        assert await client.hgetall(node) == before
        assert await client.pttl(node) > 1000

    async def test_equal_holders_make_equal_values_in_whatever_order_they_pushed(
        self, in_redis: RedisDirectory, client: Any
    ) -> None:
        names = [f"r{number}" for number in range(40)]
        placed = place(LONG[: 2 * RUN_BLOCKS])
        for start, order in ((0, names), (16, names[::-1]), (32, names[20:] + names[:20]), (48, names)):
            for name in order:
                await store(in_redis, placed[start : start + 16], name)
        values = {value for run in (0, 1) for value in await client.hvals(await _node(client, LONG, run))}
        assert len(values) == 1


class TestLongPrompts:
    async def test_the_replica_with_the_longest_overlap_is_found_in_any_length(self, directory: Directory) -> None:
        keys = SPACE.keys(range(MAX_LOOKUP_BLOCKS + 10))
        placed = place(keys)
        ends = {"all": len(keys), "most": 40_007, "early": 33, "none": 0}
        for replica, end in ends.items():
            await alive(directory, replica)
            await store(directory, placed[:end], replica)
        slow = [holding._replace(tier=1) for holding in placed[30_005:40_007]]
        await store(directory, slow, "most")
        assert await found(directory, keys) == {
            "all": (MAX_LOOKUP_BLOCKS, MAX_LOOKUP_BLOCKS),
            "most": (30_005, 40_007),
            "early": (33, 33),
            "none": (0, 0),
        }

    async def test_a_long_prompt_costs_few_reads(self, in_redis: RedisDirectory, client: Any) -> None:
        keys = SPACE.keys(range(MAX_LOOKUP_BLOCKS))
        for replica, end in (("a", 60_000), ("b", 20_000), ("c", 100)):
            await alive(in_redis, replica)
            await store(in_redis, place(keys[:end]), replica)
        await in_redis.lookup(keys)
        await client.config_resetstat()
        await in_redis.lookup(keys)
        stats = await client.info("commandstats")
        # Three places to find among 2,048 runs, in strides and halves, and then inside a run each.
        reads = stats["cmdstat_hget"]["calls"] + stats["cmdstat_hmget"]["calls"]
        assert reads <= 3 * (2 * 11 + 2)
        assert stats["cmdstat_evalsha"]["calls"] <= 1 + 3 + 2

    async def test_a_router_chooses_the_replica_that_has_all_and_claims_no_tokens(self) -> None:
        directory = MemoryDirectory()
        space = KeySpace("m", "t", 16)
        tokens = list(range(500_000))
        keys = space.keys(tokens)
        for replica, end, running in (("a", 8192, 0), ("b", len(keys), 2)):
            load = ReplicaLoad(
                running=running,
                max_requests=64,
                prefill_s_per_token=2.3e-5,
                prefill_s_per_square_token=8.7e-10,
                kv_tokens=10_000_000,
            )
            await directory.publish(ReplicaState(replica, "1", load=load), ttl_s=60)
            await store(directory, place(keys[:end]), replica)
        router = Router(directory, ExpectedTtft(), space, known_replicas=lambda: ["a", "b"])
        placement = await router.place(Call(len(tokens), 16, keys), "call")
        assert placement.replica == "b"
        claimed = {one.state.replica: one.claimed_tokens for one in await directory.lookup(keys)}
        assert claimed["a"] == 0
        assert claimed["b"] <= 16

    @pytest.mark.parametrize("blocks", [10 * RUN_BLOCKS, len(LONG)])
    async def test_a_node_that_was_evicted_costs_overlap_at_most(
        self, in_redis: RedisDirectory, client: Any, blocks: int
    ) -> None:
        keys = LONG[:blocks]
        await alive(in_redis)
        await store(in_redis, place(keys))
        for run in range(blocks // RUN_BLOCKS):
            node = await _node(client, keys, run)
            content = await client.dump(node)
            await client.delete(node)
            ((fast, held),) = (await found(in_redis, keys)).values()
            assert 0 <= fast == held <= blocks
            await client.restore(node, 60_000, content)
        assert await found(in_redis, keys) == {"a": (blocks, blocks)}


_TREE = [SPACE.keys([*range(cut), *([cut + 1000] * (150 - cut))]) for cut in (150, 100, 64, 33, 5)]
_holdings = st.dictionaries(
    st.sampled_from([f"r{number}" for number in range(6)]),
    st.tuples(st.integers(0, 4), st.integers(0, 150), st.integers(0, 150)),
    max_size=6,
)
_servers = itertools.count()


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with valkey_server() as server:
        yield socket_url(server)


@given(_holdings, st.integers(1, 150))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_walk_agrees_with_a_naive_one(
    server_url: str, holdings: dict[str, tuple[int, int, int]], length: int
) -> None:
    async def play() -> None:
        stored = MemoryDirectory()
        redis = RedisDirectory.from_url(server_url, namespace=f"n{next(_servers)}", timeout_s=5.0)
        tiers: dict[str, dict[bytes, int]] = {}
        for replica, (branch, end, fast) in holdings.items():
            keys = _TREE[branch][:end]
            placed = [holding._replace(tier=int(index >= fast)) for index, holding in enumerate(place(keys))]
            tiers[replica] = {holding.key: holding.tier for holding in placed}
            for directory in (stored, redis):
                await alive(directory, replica)
                await store(directory, placed, replica)
        for prompt in _TREE:
            keys = prompt[:length]
            expected = {replica: (_leading(keys, held, 0), _leading(keys, held, 1)) for replica, held in tiers.items()}
            assert await found(stored, keys) == expected
            for one_trip in (redis_lookup.ONE_TRIP_BLOCKS, 0):
                with pytest.MonkeyPatch.context() as patched:
                    patched.setattr(redis_lookup, "ONE_TRIP_BLOCKS", one_trip)
                    assert await found(redis, keys) == expected
        await redis.close()

    asyncio.run(play())


def _leading(keys: list[bytes], held: dict[bytes, int], worst: int) -> int:
    return next((index for index, key in enumerate(keys) if held.get(key, 2) > worst), len(keys))


def _continuations(replica: int, count: int) -> list[Holding]:
    """Return blocks that follow one first block, each in a chain of its own, in one node."""
    return [place(SPACE.keys([1, 10_000 * (replica + 1) + number]))[1] for number in range(count)]


class TestReclaim:
    @pytest.mark.parametrize("others", [1, 12])
    async def test_it_costs_what_it_frees_whatever_else_lies_in_the_node(
        self, in_redis: RedisDirectory, client: Any, others: int
    ) -> None:
        for replica in range(others + 1):
            await alive(in_redis, f"r{replica}")
            await store(in_redis, _continuations(replica, 500), f"r{replica}")
        await alive(in_redis, "r0", "2")
        await asyncio.sleep(0.003)
        await client.config_resetstat()
        assert await in_redis.reclaim() == 500
        stats = await client.info("commandstats")
        assert "cmdstat_hscan" not in stats
        assert stats["cmdstat_evalsha"]["calls"] <= 2 + 2 * 6
        assert await in_redis.reclaim() == 0

    async def test_what_several_holders_left_is_freed_though_they_went_one_after_the_other(
        self, directory: Directory
    ) -> None:
        holdings = _continuations(0, 600)
        for replica in ("live", "b", "a"):
            await alive(directory, replica)
            await store(directory, holdings, replica)
        await alive(directory, "a", "2")
        await asyncio.sleep(0.003)
        freed = await directory.reclaim(max_fields=100)
        await alive(directory, "b", "2")
        await asyncio.sleep(0.003)
        for _ in range(40):
            freed += await directory.reclaim(max_fields=100)
            await asyncio.sleep(0.002)
        assert freed == 2 * len(holdings)

    async def test_an_index_knows_no_block_that_went(self, in_redis: RedisDirectory, client: Any) -> None:
        holdings = _continuations(0, 200)
        await alive(in_redis)
        for _ in range(3):
            await store(in_redis, holdings)
            await in_redis.apply("a", "1", removed=holdings)
        assert await client.keys("*o:*") == []
        await store(in_redis, holdings[:70])
        (index,) = await client.keys("*o:*")
        assert await client.hlen(index) == 1 + 70 - 64

    async def test_entries_whose_index_was_evicted_are_found_by_lookups_and_freed(
        self, in_redis: RedisDirectory, client: Any
    ) -> None:
        keys = LONG[: 3 * RUN_BLOCKS]
        await alive(in_redis, "live")
        await store(in_redis, place(keys), "live")
        side = _continuations(7, 50)
        for generation in range(5):
            await alive(in_redis, "a", str(generation))
            await store(in_redis, place(keys), "a", str(generation))
            await alive(in_redis, "a", str(generation + 1))
            await _evict_index(client, holder_of("a", str(generation)))
        await store(in_redis, side, "live")
        for _ in range(60):
            await in_redis.lookup(keys)
            await asyncio.sleep(0.003)
            await in_redis.reclaim()
        values = [value for run in range(3) for value in await client.hvals(await _node(client, keys, run))]
        assert len(values) == len(keys)
        assert {value[:8] for value in values} == {holder_of("live", "1")}
        assert {len(value) for value in values} == {9}

    async def test_a_lookup_finds_what_lies_beside_its_first_block_too(
        self, in_redis: RedisDirectory, client: Any
    ) -> None:
        keys = LONG[: 3 * RUN_BLOCKS]
        await alive(in_redis, "live")
        await store(in_redis, place(keys), "live")
        await store(in_redis, place(keys)[RUN_BLOCKS:], "dead")
        await _evict_index(client, holder_of("dead", "1"))
        for _ in range(40):
            await in_redis.lookup(keys)
            await asyncio.sleep(0.003)
            await in_redis.reclaim()
        values = await client.hvals(await _node(client, keys, 2))
        assert {len(value) for value in values} == {9}

    async def test_a_generation_that_is_being_filled_is_left_alone(
        self, in_redis: RedisDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(redis_reclaim, "SUPERSEDED_S", 5.0)
        await alive(in_redis)
        await store(in_redis, place(LONG[:40]), incarnation="2")
        for _ in range(10):
            await in_redis.lookup(LONG[:40])
            await store(in_redis, place(LONG[40:41]), incarnation="2")
            await in_redis.reclaim()
        await alive(in_redis, incarnation="2")
        assert await found(in_redis, LONG[:40]) == {"a": (40, 40)}


async def _node(client: Any, keys: list[bytes], run: int) -> bytes:
    anchor = keys[max(run * RUN_BLOCKS - 1, 0)]
    (node,) = [name for name in await client.keys("*b:*") if name.endswith(b"b:" + anchor)]
    return bytes(node)


async def _evict_index(client: Any, holder: bytes) -> None:
    for name in await client.keys("*o:*"):
        if name.endswith(holder):
            await client.delete(name)
            owners = name[: -len(b"o:" + holder)] + b"owners"
            await client.zrem(owners, holder)
