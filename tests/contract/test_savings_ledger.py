"""What every savings ledger does, run against each backend."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Any

import pytest
from redis.asyncio import Redis
from support.redis_fixtures import url_of
from support.redis_servers import OTHER_SERVERS

from aloraserve.errors import DirectoryUnavailableError
from aloraserve.ledger import OTHER
from aloraserve.ledger.redis import (
    MAX_PENDING_BUCKETS,
    MAX_PIECE_FIELDS,
    MAX_UNWRITTEN,
    RETRIED_S,
    WRITER_KEPT_S,
)
from aloraserve.savings import memory as memory_backend
from aloraserve.savings.base import (
    FIGURES,
    LONGEST_FINE_S,
    LONGEST_WINDOW_S,
    MAX_ADAPTERS,
    MINUTE_S,
    QUARTER_S,
    CachedBySource,
    CallSavings,
    SavingsEntry,
    SavingsFigures,
    SavingsLedger,
    buckets,
)
from aloraserve.savings.memory import MemoryLedger
from aloraserve.savings.redis import RedisLedger

NOW_S = 1_800_000_000.0
"""The start of a minute and of a quarter of an hour."""
Make = Callable[..., SavingsLedger]

pytestmark = pytest.mark.untimed


def entry(adapter: str = "safety", saved_s: float = 0.5, **cached: int) -> SavingsEntry:
    return SavingsEntry(adapter, 0.123456, 100, CallSavings(saved_s, 64, 32, 0.75, CachedBySource(**cached), -0.05))


@pytest.fixture(params=["memory", "redis", "declared-keys", *OTHER_SERVERS])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    url = None if request.param == "memory" else url_of(request, request.param)
    async with AsyncExitStack() as stack:

        def build(namespace: str = "test", timeout_s: float = 5.0) -> SavingsLedger:
            # Most servers are there for all tests, so each has its own namespaces.
            own = f"{request.node.name}-{namespace}"
            ledger: SavingsLedger = (
                RedisLedger.from_url(url, namespace=own, timeout_s=timeout_s) if url else MemoryLedger()
            )
            stack.push_async_callback(ledger.close)
            return ledger

        yield build


@pytest.fixture
def ledger(make: Make) -> SavingsLedger:
    return make()


async def calls(ledger: SavingsLedger, window_s: float, now_s: float = NOW_S) -> int:
    return sum(figures.calls for figures in (await ledger.totals(window_s, now_s)).values())


async def test_nothing_was_saved_at_first(ledger: SavingsLedger) -> None:
    assert await ledger.totals(3600, NOW_S) == {}


@pytest.mark.parametrize("window_s", [3600, LONGEST_WINDOW_S])
async def test_sums_are_exact_and_kept_apart_by_adapter(ledger: SavingsLedger, window_s: int) -> None:
    for number in range(100):
        ledger.add(entry(saved_s=0.1 if number % 4 else -0.3, own=1, base=2, sibling=3, unknown=4), NOW_S - number)
    ledger.add(entry("", saved_s=0.0), NOW_S)
    found = await ledger.totals(window_s, NOW_S)
    assert asdict(found["safety"]) == {
        "calls": 100,
        "ttft_us": 12_345_600,
        "saved_us": 7_500_000,
        "lost_us": 7_500_000,
        "saved_tokens": 6400,
        "prompt_tokens": 10_000,
        "own_tokens": 100,
        "base_tokens": 200,
        "sibling_tokens": 300,
        "unknown_tokens": 400,
        "saved_queue_us": -5_000_000,
        "confidence_milli": 75_000,
    }
    assert found[""].calls == 1
    assert found["safety"].net_saved_s == 0
    assert found["safety"].saved_prefill_s == pytest.approx(5.0), "the wait for others is no engine's work"
    assert found["safety"].counterfactual_ttft_s == pytest.approx(12.3456)


async def test_losses_of_tokens_are_sums_below_zero(ledger: SavingsLedger) -> None:
    lost = CallSavings(-0.25, -96, 96, 1.0, CachedBySource())
    ledger.add(SavingsEntry("safety", 1.0, 100, lost), NOW_S)
    found = (await ledger.totals(60, NOW_S))["safety"]
    assert (found.saved_tokens, found.saved_us, found.lost_us) == (-96, 0, 250_000)


async def test_asking_and_flushing_again_count_nothing_twice(ledger: SavingsLedger) -> None:
    ledger.add(entry(), NOW_S)
    for _ in range(3):
        await ledger.flush()
        assert await calls(ledger, 3600) == 1
    ledger.add(entry(), NOW_S)
    assert await calls(ledger, 3600) == 2


async def test_names_may_have_any_letters(ledger: SavingsLedger) -> None:
    for name in ("a:b", "ü", "(other)", "calls:x"):
        ledger.add(entry(name), NOW_S)
    assert sorted(await ledger.totals(60, NOW_S)) == ["(other)", "a:b", "calls:x", "ü"]


@pytest.mark.parametrize(("window_s", "width"), [(3600, MINUTE_S), (5 * 3600, QUARTER_S)])
async def test_a_window_reaches_back_to_the_start_of_the_bucket_it_begins_in(
    ledger: SavingsLedger, window_s: int, width: int
) -> None:
    now_s = NOW_S + width / 2
    first = NOW_S - window_s
    for at_s in (first - 0.001, first, first + width, now_s):
        ledger.add(entry(), at_s)
    assert await calls(ledger, window_s, now_s) == 3
    assert await calls(ledger, window_s, NOW_S + width) == 2, "a bucket later"


async def test_what_comes_after_a_window_is_not_in_it(ledger: SavingsLedger) -> None:
    ledger.add(entry(), NOW_S + MINUTE_S)
    assert await calls(ledger, 3600, NOW_S + 1) == 0


@pytest.mark.parametrize("window_s", [0, -1, LONGEST_WINDOW_S + 1])
async def test_a_window_that_is_none_is_refused(ledger: SavingsLedger, window_s: float) -> None:
    with pytest.raises(ValueError, match=f"window_s is {window_s}"):
        await ledger.totals(window_s, NOW_S)


async def test_a_day_is_read_in_about_a_hundred_buckets() -> None:
    assert len(buckets(LONGEST_WINDOW_S, NOW_S)[1]) == LONGEST_WINDOW_S // QUARTER_S + 1
    assert len(buckets(LONGEST_FINE_S, NOW_S)[1]) == LONGEST_FINE_S // MINUTE_S + 1


async def test_names_beyond_the_limit_are_summed_as_others(ledger: SavingsLedger) -> None:
    for number in range(MAX_ADAPTERS + 20):
        ledger.add(entry(f"adapter-{number}"), NOW_S)
        if number % 50 == 0:
            await ledger.flush()
    ledger.add(entry("adapter-0"), NOW_S)
    found = await ledger.totals(60, NOW_S)
    assert len(found) == MAX_ADAPTERS + 1
    assert found[OTHER].calls == 20
    assert found["adapter-0"].calls == 2


async def test_memory_forgets_what_no_window_reaches() -> None:
    ledger = MemoryLedger()
    for minute in range(3 * LONGEST_WINDOW_S // MINUTE_S):
        ledger.add(entry(), NOW_S + minute * MINUTE_S)
    most = sum(kept // width + 1 for width, kept in memory_backend.KEPT_S.items())
    assert len(ledger._tally.by_bucket) == len(ledger._tally._names) <= most


class TestRedis:
    @pytest.fixture
    def open(self, redis_server: Any) -> Callable[..., RedisLedger]:
        return lambda namespace="test", timeout_s=5.0: RedisLedger.from_url(
            redis_server.url, namespace=namespace, timeout_s=timeout_s
        )

    async def test_several_ledgers_add_up(self, open: Callable[..., RedisLedger]) -> None:
        gateways = [open() for _ in range(3)]
        for gateway, number in itertools.product(gateways, range(10)):
            gateway.add(entry(), NOW_S + number)
        await asyncio.gather(*(gateway.flush() for gateway in gateways))
        for gateway in gateways:
            found = (await gateway.totals(60, NOW_S + 10))["safety"]
            assert found.calls == 30
            assert found.saved_us == 15_000_000
            await gateway.close()

    async def test_a_fleets_figures_are_its_own(self, open: Callable[..., RedisLedger]) -> None:
        one, other = open("one"), open("other")
        one.add(entry(), NOW_S)
        await one.flush()
        assert await other.totals(60, NOW_S) == {}
        await one.close()
        await other.close()

    async def test_every_key_expires_when_no_window_reaches_it(
        self, open: Callable[..., RedisLedger], redis_server: Any
    ) -> None:
        ledger = open()
        for at_s in (NOW_S - 3600, NOW_S):
            ledger.add(entry(), at_s)
        await ledger.flush()
        async with Redis.from_url(redis_server.url) as admin:
            keys = await admin.keys("*")
            [writer] = [key for key in keys if b":writer:" in key]
            assert 0 < await admin.pttl(writer) <= WRITER_KEPT_S * 1000
            keys.remove(writer)
            assert sorted(key.decode().rsplit(":", 2)[1] for key in keys) == ["60", "60", "900", "900"]
            for key in keys:
                width = int(key.decode().rsplit(":", 2)[1])
                kept_ms = memory_backend.KEPT_S[width] * 1000
                assert key.startswith(b"{aloraserve:test}:savings:")
                assert kept_ms < await admin.pttl(key) <= kept_ms + 2 * width * 1000
        await ledger.close()

    async def test_fields_of_another_version_are_left_alone(
        self, open: Callable[..., RedisLedger], redis_server: Any
    ) -> None:
        ledger = open()
        ledger.add(entry(), NOW_S)
        await ledger.flush()
        async with Redis.from_url(redis_server.url) as admin:
            for key in await admin.keys("*:savings:[0-9]*"):
                await admin.hset(key, "joules:safety", "1.5")
        assert asdict((await ledger.totals(60, NOW_S))["safety"]) == asdict(SavingsFigures.of(entry()))
        await ledger.close()

    async def test_without_its_server_figures_wait_for_a_while_and_are_then_lost(
        self, open: Callable[..., RedisLedger], redis_server: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledger = open(timeout_s=0.3)
        redis_server.stop()
        for now in (0.0, 1.0, RETRIED_S + 0.5):
            monkeypatch.setattr(ledger, "_clock", lambda now=now: now)
            ledger.add(entry(), NOW_S)
            with pytest.raises(DirectoryUnavailableError, match="savings ledger at unix://"):
                await ledger.flush()
        with pytest.raises(DirectoryUnavailableError):
            await ledger.totals(60, NOW_S)
        redis_server.start()
        ledger.add(entry(), NOW_S)
        assert await calls(ledger, 60) == 3, "all but the first"
        await ledger.close()

    async def test_what_waits_for_a_server_is_bounded(self, open: Callable[..., RedisLedger]) -> None:
        ledger = open()
        for _ in range(2 * MAX_UNWRITTEN):
            ledger.add(entry(), NOW_S)
            ledger._take()
        assert len(ledger._unwritten) == MAX_UNWRITTEN
        await ledger.close()

    async def test_a_piece_whose_reply_was_lost_is_sent_again_and_counted_once(
        self, open: Callable[..., RedisLedger], redis_server: Any
    ) -> None:
        ledger = open(timeout_s=0.2)
        await ledger.totals(60, NOW_S)
        for _ in range(4):
            ledger.add(entry(), NOW_S)
            redis_server.pause()
            with pytest.raises(DirectoryUnavailableError):
                await ledger.flush()
            # The server finds the piece in its buffer when it goes on.
            redis_server.resume()
        assert await calls(ledger, 60) == 4
        await ledger.close()

    async def test_many_names_are_written_in_pieces_and_read_in_slices(self, open: Callable[..., RedisLedger]) -> None:
        ledger = open()
        for number in range(MAX_ADAPTERS):
            ledger.add(entry(f"adapter-{number}"), NOW_S)
        ledger._take()
        assert max(len(piece.fields) for piece in ledger._unwritten) < 2 * MAX_PIECE_FIELDS + 2 * len(FIGURES)
        assert await calls(ledger, 60) == MAX_ADAPTERS
        assert not ledger._unwritten
        await ledger.close()

    async def test_a_server_that_hangs_is_not_waited_for(
        self, open: Callable[..., RedisLedger], redis_server: Any
    ) -> None:
        ledger = open(timeout_s=0.1)
        await ledger.totals(60, NOW_S)
        redis_server.pause()
        try:
            ledger.add(entry(), NOW_S)
            async with asyncio.timeout(60):
                with pytest.raises(DirectoryUnavailableError, match="did not answer within"):
                    await ledger.flush()
        finally:
            redis_server.resume()
        await ledger.close()

    async def test_what_waits_for_a_flush_is_bounded(self, open: Callable[..., RedisLedger]) -> None:
        ledger = open()
        for minute in range(10 * MAX_PENDING_BUCKETS):
            ledger.add(entry(), NOW_S + minute * MINUTE_S)
        assert len(ledger._pending.by_bucket) <= MAX_PENDING_BUCKETS
        assert await calls(ledger, 600, NOW_S + 10 * MAX_PENDING_BUCKETS * MINUTE_S) > 0, "the newest are kept"
        await ledger.close()

    async def test_a_password_is_not_shown(self) -> None:
        ledger = RedisLedger.from_url("redis://user:s3cret@127.0.0.1:1", namespace="test", timeout_s=0.5)
        with pytest.raises(DirectoryUnavailableError) as caught:
            await ledger.totals(60, NOW_S)
        assert "s3cret" not in caught.value.message
        await ledger.close()
