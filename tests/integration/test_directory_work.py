"""What the server does for a call, counted in commands: the same in a large fleet and for a long prompt."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis.asyncio import Redis
from support.simulated_fleet import eventually

from aloraserve.blocks import KeySpace
from aloraserve.blocks.keys import SCHEMA
from aloraserve.directory import redis as redis_backend
from aloraserve.directory.base import MAX_LOOKUP_BLOCKS, Directory, ReplicaState, place
from aloraserve.directory.redis import RedisDirectory
from aloraserve.routing.base import Call
from aloraserve.routing.expected_ttft import ExpectedTtft
from aloraserve.routing.router import Router

SPACE = KeySpace("m", "t", 16)
PREFIX = f"{{aloraserve:test}}:{SCHEMA}:"
Open = Callable[[], RedisDirectory]


def prompt(number: int, blocks: int) -> list[bytes]:
    return SPACE.keys([number] * 16 * blocks)


@pytest.fixture
async def opened(redis_server: Any) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        def build() -> RedisDirectory:
            directory = RedisDirectory.from_url(redis_server.url, namespace="test", timeout_s=5.0)
            stack.push_async_callback(directory.close)
            return directory

        yield build


@pytest.fixture
async def client(redis_server: Any) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_server.url) as opened:
        yield opened


async def fill(directory: Directory, replicas: int, start: int = 0) -> None:
    for first in range(start, replicas, 64):
        names = [f"r{number:05}" for number in range(first, min(first + 64, replicas))]
        await asyncio.gather(*(directory.publish(ReplicaState(name, "1"), ttl_s=600) for name in names))


async def work(client: Redis, call: Callable[[], Awaitable[object]]) -> Counter[str]:
    """Return how often the server ran each command for a call of another client that never looks anything up."""
    await call()
    await client.config_resetstat()
    await call()
    stats = await client.info("commandstats")
    return Counter(
        {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items() if "config" not in name}
    )


async def test_a_claim_and_its_withdrawal_take_as_much_of_the_server_for_any_prompt(
    opened: Open, client: Redis
) -> None:
    directory, numbers = opened(), iter(range(1000))
    await fill(directory, 2)

    async def claimed(blocks: int) -> Counter[str]:
        async def claim() -> None:
            number = next(numbers)
            assert await directory.claim(f"c{number}", "r00000", "1", prompt(number, blocks), tokens=1, unseen_from=0)

        return await work(client, claim)

    async def withdrawn(blocks: int) -> Counter[str]:
        number = next(numbers)
        await directory.claim(f"w{number}", "r00000", "1", prompt(number, blocks), tokens=1, unseen_from=0)
        return await work(client, lambda: directory.withdraw(f"w{number}", "r00000", "1", prompt(number, blocks)))

    counts = [await claimed(blocks) for blocks in (1, 512, MAX_LOOKUP_BLOCKS)]
    assert counts[0] == counts[1] == counts[2]
    assert counts[0].total() < 25
    assert (await withdrawn(1)) == (await withdrawn(MAX_LOOKUP_BLOCKS))


async def test_a_claims_entry_is_bounded_whatever_the_prompts_length(opened: Open, client: Redis) -> None:
    directory = opened()
    sizes = []
    for blocks in (MAX_LOOKUP_BLOCKS, 2 * MAX_LOOKUP_BLOCKS):
        await directory.claim(f"c{blocks}", "a", "1", prompt(1, blocks), tokens=1)
        [(_, fields)] = await client.xrevrange(f"{PREFIX}claims", count=1)
        sizes.append(len(fields[b"claim"]))
    assert max(sizes) < 2500
    assert await client.pttl(f"{PREFIX}claims") > 0


@pytest.mark.parametrize("claims", [0, 16])
async def test_a_lookup_takes_as_much_of_the_server_whatever_is_claimed(
    opened: Open, client: Redis, claims: int
) -> None:
    directory, gateway = opened(), opened()
    await fill(directory, 128)
    keys = prompt(0, 512)
    await directory.apply("r00000", "1", stored=place(keys))
    for number in range(128):
        await asyncio.gather(
            *(directory.claim(f"c{number}-{each}", f"r{number:05}", "1", [], tokens=5) for each in range(claims))
        )
    assert sum(found.claims for found in await gateway.lookup(keys)) == 128 * claims
    # Without the view's own questions, which come at their own pace.
    await gateway._refresher.close()
    counts = await work(client, lambda: gateway._prompts.held(keys, gateway._shard(keys)))
    assert counts.total() == counts["hget"] + counts["time"] + counts["evalsha"] + counts["info"]
    assert counts["hget"] <= 512 / 32 + 1


async def test_a_turn_takes_as_much_of_the_server_in_a_fleet_of_any_size(opened: Open, client: Redis) -> None:
    """A lookup of a prompt that is mostly held, a claim of the rest, and the heartbeat that settles it."""
    directory, numbers = opened(), iter(range(1000))
    shared = prompt(0, 480)
    await directory.apply("r00000", "1", stored=place(shared))

    async def turn() -> None:
        number = next(numbers)
        keys = [*shared, *prompt(1 + number, 32)]
        assert len(await directory._prompts.held(keys, directory._shard(keys))) == 1
        assert await directory.claim(f"c{number}", "r00000", "1", keys, tokens=512, unseen_from=480)
        await directory.publish(ReplicaState("r00000", "1"), ttl_s=600, settled=[f"c{number}"])

    counts = []
    for first, replicas in ((0, 2), (2, 128)):
        await fill(directory, replicas, first)
        counts.append(await work(client, turn))
    assert counts[0] == counts[1]
    assert counts[0].total() < 90


async def test_a_refresh_brings_only_what_changed(opened: Open, client: Redis) -> None:
    directory, gateway = opened(), opened()
    await fill(directory, 128)
    await directory.claim("c", "r00001", "1", prompt(1, 4), tokens=5)
    await gateway.states()
    await gateway._refresher.close()
    quiet = await work(client, gateway._refresh)
    assert quiet["hmget"] == 0
    await directory.claim("d", "r00002", "1", prompt(1, 4), tokens=5)
    assert gateway._view.cursors != (await _cursors_after(gateway))
    assert [found.claimed_tokens for found in await opened().lookup([])][:4] == [0, 5, 5, 0]


async def _cursors_after(gateway: RedisDirectory) -> object:
    await gateway._refresh()
    return gateway._view.cursors


async def test_a_heartbeat_that_settles_calls_takes_few_commands_however_many_they_are(
    opened: Open, client: Redis
) -> None:
    directory = opened()
    await fill(directory, 1)
    await directory.claim("open", "r00000", "1", [], tokens=5)
    counts = []
    for settled in (1, 50, 1000):
        ids = [f"call-{number}" for number in range(settled)]
        counts.append(
            await work(client, lambda ids=ids: directory.publish(ReplicaState("r00000", "1"), ttl_s=60, settled=ids))
        )
    assert counts[0] == counts[1] == counts[2]


async def test_a_fresh_gateway_of_a_fleet_of_thousands_fills_its_view_and_is_usable(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one of more replicas than Lua can return values."""
    directory, gateway = opened(), opened()
    await fill(directory, 8_200)
    pages = []
    take = gateway._view.take

    def note(reply: Any, page: int) -> bool:
        pages.append(len(reply[2][1]))
        return take(reply, page)

    monkeypatch.setattr(gateway._view, "take", note)
    router = Router(gateway, ExpectedTtft(), SPACE, budget_s=0.5, known_replicas=lambda: [])

    async def decides() -> bool:
        return (await router.decide(Call(64, 16, prompt(0, 4)))).policy == "expected-ttft"

    await eventually(decides, 30)
    assert max(pages) <= redis_backend.PAGE
    assert len(await gateway.lookup(prompt(0, 4))) == 8_200


async def test_long_new_prompts_of_one_gateway_cost_another_no_decision(opened: Open) -> None:
    """A claim is short work for the server, so that nobody waits behind it."""
    ordinary, long = opened(), opened()
    await fill(ordinary, 8)
    names = [f"r{number:05}" for number in range(8)]
    routers = [
        Router(each, ExpectedTtft(), SPACE, budget_s=2.0, claim_budget_s=2.0, known_replicas=lambda: names)
        for each in (ordinary, long)
    ]

    async def calls(router: Router, count: int, blocks: int, tag: str) -> Counter[tuple[object, object]]:
        outcomes: Counter[tuple[object, object]] = Counter()
        for number in range(count):
            call = Call(16 * blocks, 16, prompt(1000 * blocks + number, blocks))
            placed = await router.place(call, f"{tag}{number}")
            outcomes[placed.fallback, placed.claim] += 1
        return outcomes

    found = await asyncio.gather(calls(routers[0], 60, 32, "s"), calls(routers[1], 4, MAX_LOOKUP_BLOCKS, "l"))
    assert [list(outcomes) for outcomes in found] == [[(None, "claimed")]] * 2


async def test_a_heartbeat_frees_claims_that_expired(opened: Open, client: Redis) -> None:
    directory = opened()
    await directory.publish(ReplicaState("a", "1"), ttl_s=60)
    await directory.claim("short", "a", "1", prompt(1, 4), tokens=64, ttl_s=0.05)
    await directory.claim("long", "a", "1", prompt(2, 4), tokens=64, ttl_s=60)

    async def open_claims() -> list[bytes]:
        (key,) = await client.keys(f"{PREFIX}*t:a")
        return await client.hkeys(key)

    assert sorted(await open_claims()) == [b"long", b"short"]

    async def freed() -> bool:
        await directory.publish(ReplicaState("a", "1"), ttl_s=60)
        return await open_claims() == [b"long"]

    await eventually(freed, 5)
