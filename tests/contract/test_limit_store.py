"""What every store of limits does, run against each backend; in whole numbers, however many ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from support.redis_fixtures import url_of
from support.redis_servers import OTHER_SERVERS

from aloraserve.errors import DirectoryUnavailableError
from aloraserve.limits import Demand, LimitStore, Settlement, Want
from aloraserve.limits import base as contract
from aloraserve.limits import redis as redis_backend
from aloraserve.limits.base import LEASE_US, MAX_COST, MAX_DEBT_US, MINUTE_US
from aloraserve.limits.memory import MemoryLimits
from aloraserve.limits.redis import RedisLimits
from aloraserve.redis.scripts import Script, ScriptCall
from aloraserve.tenants.limits import TenantLimits

Make = Callable[[], LimitStore]
START_US = 1_800_000_000_000_000


@pytest.fixture(params=["memory", "redis", "declared-keys", "cluster", *OTHER_SERVERS])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    url = None if request.param == "memory" else url_of(request, request.param)
    alone = MemoryLimits()
    async with AsyncExitStack() as stack:

        def build() -> LimitStore:
            if url is None:
                return alone
            store = RedisLimits.from_url(url, namespace=request.node.name.translate({91: 45, 93: 45}), timeout_s=5.0)
            stack.push_async_callback(store.close)
            return store

        yield build


@pytest.fixture
def store(make: Make) -> LimitStore:
    return make()


def want(lease: str = "a", *, tenant: str = "acme", demand: Demand | None = None, **limits: Any) -> Want:
    return Want(tenant, TenantLimits(**limits), demand or Demand(1, 1, 1), lease)


async def test_a_bucket_lets_through_one_minute_at_once_and_says_when_there_is_more(store: LimitStore) -> None:
    for left in (2, 1, 0):
        standing = await store.take(want(requests_per_minute=3))
        assert (standing.refused_by, standing.wait_us, standing.remaining(0)) == (None, 0, left)
    refused = await store.take(want(requests_per_minute=3))
    assert refused.refused_by == "requests"
    assert 0 < refused.wait_us <= MINUTE_US // 3
    assert refused.remaining(1) is None


async def test_what_is_refused_by_one_limit_takes_from_none(store: LimitStore) -> None:
    limits: dict[str, Any] = {"requests_per_minute": 100, "tokens_per_minute": 1000, "uncached_tokens_per_minute": 50}
    await store.take(want(demand=Demand(1, 10, 50), **limits))
    for _ in range(3):
        refused = await store.take(want(demand=Demand(1, 10, 50), concurrency=1, **limits))
        assert refused.refused_by == "uncached-tokens"
        assert refused.running == 0
    taken = await store.take(want(demand=Demand(1, 10, 0), concurrency=1, **limits))
    assert (taken.refused_by, taken.running) == (None, 1)
    assert [taken.remaining(0), taken.remaining(1)] == [98, 980]


async def test_the_limit_with_the_longest_wait_is_named(store: LimitStore) -> None:
    limits: dict[str, Any] = {"requests_per_minute": 2, "tokens_per_minute": 100}
    await store.take(want(demand=Demand(2, 100, 0), **limits))
    refused = await store.take(want(demand=Demand(1, 90, 0), **limits))
    assert refused.refused_by == "tokens"
    assert 50_000_000 < refused.wait_us <= 54_000_000


async def test_tenants_have_buckets_of_their_own(store: LimitStore) -> None:
    assert (await store.take(want(tenant="a", requests_per_minute=1))).refused_by is None
    assert (await store.take(want(tenant="a", requests_per_minute=1))).refused_by == "requests"
    assert (await store.take(want(tenant="{b}:*", requests_per_minute=1))).refused_by is None


async def test_places_are_counted_over_all_who_ask(make: Make) -> None:
    one, other = make(), make()
    assert (await one.take(want("a", concurrency=2))).running == 1
    assert (await other.take(want("b", concurrency=2))).running == 2
    assert (await one.take(want("c", concurrency=2))).refused_by == "concurrency"
    await other.settle([Settlement(want("b", concurrency=2), Demand())])
    assert (await one.take(want("c", concurrency=2))).running == 2


async def test_a_limit_holds_for_any_number_that_ask_at_once(make: Make) -> None:
    stores = [make() for _ in range(4)]
    started = time.monotonic()
    takes = [stores[n % 4].take(want(str(n), demand=Demand(1, 7, 0), tokens_per_minute=700)) for n in range(200)]
    taken = sum(standing.refused_by is None for standing in await asyncio.gather(*takes))
    assert 100 <= taken <= 100 * (1 + (time.monotonic() - started) / 60) + 1


async def test_what_was_not_used_is_given_back_and_what_was_used_beyond_is_owed(store: LimitStore) -> None:
    first = want("a", demand=Demand(1, 600, 400), tokens_per_minute=1000, uncached_tokens_per_minute=1000)
    await store.take(first)
    await store.settle([Settlement(first, Demand(0, -500, 200))])
    standing = await store.take(first._replace(demand=Demand(1, 0, 0)))
    assert 900 <= (standing.remaining(1) or 0) <= 910
    assert 400 <= (standing.remaining(2) or 0) <= 410
    await store.settle([Settlement(first, Demand(0, 2900, 0))])
    refused = await store.take(first._replace(demand=Demand(1, 1, 0)))
    assert refused.refused_by == "tokens"
    assert refused.remaining(1) == 0
    assert 110_000_000 < refused.wait_us <= 121_000_000, "2,000 tokens have to be paid, at 1,000 per minute"


async def test_more_than_full_a_bucket_never_is(store: LimitStore) -> None:
    first = want(demand=Demand(1, 0, 0), requests_per_minute=2)
    await store.settle([Settlement(first, Demand(-50, 0, 0))])
    results = [(await store.take(first)).refused_by for _ in range(3)]
    assert results == [None, None, "requests"]


async def test_a_debt_is_bounded(store: LimitStore) -> None:
    first = want(tokens_per_minute=1)
    await store.settle([Settlement(first, Demand(0, MAX_COST, 0))])
    refused = await store.take(first)
    assert MAX_DEBT_US - MINUTE_US < refused.wait_us <= MAX_DEBT_US


async def test_a_changed_limit_keeps_what_was_used(store: LimitStore) -> None:
    await store.take(want(demand=Demand(1, 900, 0), tokens_per_minute=1000))
    raised = await store.take(want(demand=Demand(1, 0, 0), tokens_per_minute=2000))
    assert 1100 <= (raised.remaining(1) or 0) <= 1110


async def test_a_lease_that_nobody_renews_ends(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (contract, redis_backend):
        monkeypatch.setattr(module, "LEASE_US", 300_000)
    monkeypatch.setattr("aloraserve.limits.memory.LEASE_US", 300_000)
    store = make()
    await store.take(want("dead", concurrency=2))
    await store.take(want("alive", concurrency=2))
    deadline = time.monotonic() + 30
    while (standing := await store.take(want("next", concurrency=2))).refused_by is not None:
        assert time.monotonic() < deadline
        await store.renew([want("alive", concurrency=2), want("unknown", concurrency=2)])
        await asyncio.sleep(0.02)
    assert standing.running == 2, "the one that was renewed, and the new one"


async def test_what_is_undone_was_never_taken_whichever_comes_first(make: Make) -> None:
    one, other = make(), make()
    limits: dict[str, Any] = {"tokens_per_minute": 1000, "concurrency": 1}
    taken = want("a", demand=Demand(1, 900, 1), **limits)._replace(call="1")
    await one.take(taken)
    for _ in range(2):
        await other.undo([taken])
    late = want("b", demand=Demand(1, 900, 1), **limits)._replace(call="2")
    await other.undo([late])
    await one.take(late)
    standing = await one.take(want("c", demand=Demand(1, 0, 0), **limits))
    assert (standing.refused_by, standing.running, standing.remaining(1)) == (None, 1, 1000)


async def test_a_call_that_was_settled_is_not_undone(store: LimitStore) -> None:
    taken = want("a", demand=Demand(1, 500, 1), tokens_per_minute=1000)._replace(call="1")
    await store.take(taken)
    await store.settle([Settlement(taken, Demand(0, -100, 0))])
    await store.undo([taken])
    standing = await store.take(taken._replace(demand=Demand(1, 0, 0), call=""))
    assert 600 <= (standing.remaining(1) or 0) <= 610


async def test_a_server_that_is_gone_is_an_error_of_ours() -> None:
    store = RedisLimits.from_url("redis://127.0.0.1:1", namespace="gone", timeout_s=0.2)
    with pytest.raises(DirectoryUnavailableError, match="store of limits"):
        await store.take(want(requests_per_minute=1))
    await store.close()


async def test_keys_expire_and_name_no_tenant(redis_server: Any) -> None:
    store = RedisLimits.from_url(redis_server.url, namespace="expiring", timeout_s=5.0)
    await store.take(want(tenant="acme-secret", requests_per_minute=10, concurrency=3)._replace(call="1"))
    async with Redis.from_url(redis_server.url) as client:
        keys = [key.decode() for key in await client.keys("*expiring*")]
        assert sorted(key.rsplit(":", 1)[1] for key in keys) == ["calls", "leases", "limits"]
        assert not any("acme" in key for key in keys)
        assert len({key.split("}")[0] for key in keys}) == 1, "one slot"
        for key in keys:
            assert 0 < await client.pttl(key) <= LEASE_US // 1000
    await store.close()


def clocked(script: Script) -> Script:
    """Return a script whose clock is its last argument."""
    source = script.source.replace("redis.call('TIME')", "{math.floor(ARGV[#ARGV] / 1000000), ARGV[#ARGV] % 1000000}")
    assert source != script.source
    return Script(source)


STEPS = st.lists(
    st.tuples(
        st.integers(0, 30_000_000),
        st.sampled_from(["take", "settle"]),
        st.integers(1, 5000),
        st.sampled_from([1, 3, 7, 999, 1000]),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limit=st.sampled_from([1, 3, 7, 60, 997, 1_000_003, 10**9, 10**12]), steps=STEPS)
async def test_the_script_and_the_memory_count_alike(redis_server: Any, limit: int, steps: list[Any]) -> None:
    """Microsecond for microsecond, over any history of takes and corrections."""
    now_us = START_US
    memory = MemoryLimits(lambda: now_us)
    store = RedisLimits.from_url(redis_server.url, namespace="clocked", timeout_s=5.0)
    name = f"t{time.monotonic_ns()}"
    keys = store._keys(name)
    take, settle = clocked(redis_backend._TAKE), clocked(redis_backend._SETTLE)
    try:
        for pause_us, kind, scale, part in steps:
            now_us += pause_us
            cost = min(max(limit * part // (1000 * scale), 1), MAX_COST)
            asked = want("", tenant=name, demand=Demand(0, cost, 0), tokens_per_minute=limit)
            if kind == "settle":
                correction = cost if part % 2 else -cost
                memory.settle_now(Settlement(asked, Demand(0, correction, 0)))
                arguments = ("", "", 0, 0, limit, correction, 0, 0, now_us)
                await store._scripts.run(ScriptCall(settle, keys, arguments))
                continue
            expected = memory.take_now(asked)
            arguments = ("", LEASE_US, 0, "", 0, 0, limit, cost, 0, 0, now_us)
            by, wait, _, used, _, _ = map(int, await store._scripts.run(ScriptCall(take, keys, arguments)))
            assert (by == 2, wait, used) == (expected.refused_by is not None, expected.wait_us, expected.used_us[1])
    finally:
        await store.close()


async def test_a_settlement_of_one_limit_shortens_no_other_s_memory(redis_server: Any) -> None:
    """The key holds all buckets of a tenant, and expires with the last that is not full again."""
    store = RedisLimits.from_url(redis_server.url, namespace="settled", timeout_s=5.0)
    limits = {"requests_per_minute": 2, "tokens_per_minute": 1000}
    wanted = want(demand=Demand(1, 100, 0), **limits)
    await store.take(wanted)
    await store.settle([Settlement(wanted, Demand(0, -100, 0))])
    async with Redis.from_url(redis_server.url) as client:
        [lasts_ms] = [await client.pttl(key) async for key in client.scan_iter() if await client.type(key) == b"hash"]
    await store.close()
    assert lasts_ms > MINUTE_US / 2 / 1000
