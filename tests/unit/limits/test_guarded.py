"""Limits while their server answers, is gone, and is back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from aloraserve.errors import DirectoryUnavailableError
from aloraserve.limits.base import LEASE_US, Demand, Settlement, Standing, Want
from aloraserve.limits.guarded import GuardedLimits, per_gateway
from aloraserve.limits.memory import MemoryLimits
from aloraserve.tenants.limits import TenantLimits
from aloraserve_services.kept_tasks import kept


class FaultyLimits(MemoryLimits):
    """A store whose server may be gone."""

    is_gone = False
    is_late = False
    asked = 0
    renewed = 0
    is_closed = False

    async def take(self, want: Want) -> Standing:
        self.asked += 1
        self._check()
        standing = await super().take(want)
        if self.is_late:
            raise DirectoryUnavailableError("late")
        return standing

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        self._check()
        await super().settle(settlements)

    async def undo(self, wants: Sequence[Want]) -> None:
        self._check()
        await super().undo(wants)

    async def renew(self, wants: Iterable[Want]) -> None:
        self._check()
        self.renewed += len(list(wants))

    async def close(self) -> None:
        self.is_closed = True

    def _check(self) -> None:
        if self.is_gone:
            raise DirectoryUnavailableError("gone")


def want(lease: str = "a", cost: int = 10, limits: TenantLimits | None = None) -> Want:
    return Want("acme", limits or TenantLimits(tokens_per_minute=100), Demand(1, cost, 0), lease, lease)


async def admitted(guarded: GuardedLimits, calls: int, limits: TenantLimits | None = None) -> int:
    standings = [await guarded.take(want(str(n), limits=limits)) for n in range(calls)]
    return sum(standing.refused_by is None for standing in standings)


async def test_a_gateway_alone_lets_through_its_share_and_asks_the_server_rarely() -> None:
    store, failures = FaultyLimits(), []
    store.is_gone = True
    guarded = GuardedLimits(store, 2, on_failure=lambda: failures.append(1))
    assert await admitted(guarded, 40) == 5, "half of the limit, neither none nor all"
    assert store.asked == len(failures) == 1


async def test_a_share_is_never_nothing() -> None:
    shared = per_gateway(TenantLimits(requests_per_minute=3, tokens_per_minute=1000, concurrency=1, weight=4.0), 4)
    assert shared == TenantLimits(requests_per_minute=1, tokens_per_minute=250, concurrency=1, weight=4.0)


async def test_a_request_larger_than_a_gateways_share_is_let_through_and_owed() -> None:
    store = FaultyLimits()
    store.is_gone = True
    guarded = GuardedLimits(store, 10)
    large = want(cost=90)
    assert (await guarded.take(large)).refused_by is None
    guarded.settle(large, Demand())
    refused = await guarded.take(want("next", cost=1))
    assert refused.wait_us > 7 * 60_000_000, "nine minutes of a share of 10 per minute"


async def test_corrections_are_made_in_the_background_and_leases_renewed() -> None:
    store = FaultyLimits()
    guarded = GuardedLimits(store, 1)
    settling = asyncio.create_task(guarded.keep_settling())
    limits = TenantLimits(tokens_per_minute=100, concurrency=1)
    first = want("first", cost=100, limits=limits)
    assert (await guarded.take(first)).refused_by is None
    await guarded._renew()
    assert store.renewed == 1
    guarded.settle(first, Demand(0, -100, 0))
    guarded.release("first")
    for _ in range(3):
        await asyncio.sleep(0)
    assert (await guarded.take(want("second", cost=100, limits=limits))).refused_by is None
    settling.cancel()
    await guarded.close()
    assert store.is_closed


async def test_what_was_taken_here_is_settled_here() -> None:
    store = FaultyLimits()
    store.is_gone = True
    guarded = GuardedLimits(store, 1)
    limits = TenantLimits(concurrency=1)
    asked = want(limits=limits)
    assert (await guarded.take(asked)).refused_by is None
    assert (await guarded.take(want("b", limits=limits))).refused_by == "concurrency"
    guarded.settle(asked, Demand())
    guarded.release("a")
    assert (await guarded.take(want("b", limits=limits))).refused_by is None


async def test_settlements_that_the_server_does_not_take_are_dropped_and_bounded() -> None:
    store = FaultyLimits()
    guarded = GuardedLimits(store, 1)
    first = want()
    await guarded.take(first)
    store.is_gone = True
    guarded.settle(first, Demand(0, -10, 0))
    assert not await guarded._settle_all()
    store.is_gone = False
    assert await guarded._settle_all(), "what may have arrived is not sent again"
    assert (await store.take(want(cost=0))).remaining(1) == 90


async def test_places_of_the_own_share_are_kept_as_long_as_their_requests_run() -> None:
    now_us = 0
    store = FaultyLimits()
    store.is_gone = True
    guarded = GuardedLimits(store, 1, own=MemoryLimits(lambda: now_us))
    limits = TenantLimits(concurrency=1)
    assert (await guarded.take(want("long", limits=limits))).refused_by is None
    for _ in range(6):
        now_us += LEASE_US // 2
        await guarded._renew()
        assert (await guarded.take(want("next", limits=limits))).refused_by == "concurrency"
    guarded.release("long")
    assert (await guarded.take(want("next", limits=limits))).refused_by is None


async def _late(store: FaultyLimits, guarded: GuardedLimits, wanted: Want) -> None:
    store.is_late = True
    assert (await guarded.take(wanted)).refused_by is None, "from the gateway's own share"
    store.is_late = False


async def _cancelled(store: FaultyLimits, guarded: GuardedLimits, wanted: Want) -> None:
    taken = asyncio.Event()

    async def take(asked: Want) -> Standing:
        await MemoryLimits.take(store, asked)
        taken.set()
        return await asyncio.Event().wait()  # type: ignore[return-value]

    store.take = take  # type: ignore[method-assign]
    asking = asyncio.create_task(guarded.take(wanted))
    await taken.wait()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    del store.take  # type: ignore[method-assign]


@pytest.mark.parametrize("without_a_reply", [_late, _cancelled])
async def test_what_was_taken_without_a_reply_is_undone_at_the_server(without_a_reply: Callable[..., Any]) -> None:
    store = FaultyLimits(lambda: 0)
    guarded = GuardedLimits(store, 1)
    wanted = want(cost=60, limits=TenantLimits(tokens_per_minute=100, concurrency=1))
    await without_a_reply(store, guarded, wanted)
    store.is_gone = True
    assert not await guarded._settle_all()
    store.is_gone = False
    assert await guarded._settle_all(), "tried until it is undone"
    free = await store.take(want("next", cost=100, limits=wanted.limits))
    assert (free.refused_by, free.running) == (None, 1), "neither its tokens nor its place"


async def test_an_odd_reply_ends_neither_a_call_nor_settling() -> None:
    """Taking goes on with the own share; the tasks beside begin again."""
    store = FaultyLimits(lambda: 0)
    guarded = GuardedLimits(store, 1)
    wanted = want(cost=60)
    await guarded.take(wanted)
    odd = iter([ValueError("odd"), ValueError("odd")])

    async def settle(settlements: Sequence[Settlement]) -> None:
        for error in odd:
            raise error
        await MemoryLimits.settle(store, settlements)

    store.settle = settle  # type: ignore[method-assign]
    keeping = asyncio.create_task(kept(guarded.keep_settling))
    for _ in range(3):
        guarded.settle(wanted, Demand(0, -60, 0))
        while guarded._unsettled or guarded._has_unsettled.is_set():
            await asyncio.sleep(0)
            if guarded._has_unsettled.is_set() and not guarded._unsettled:
                await asyncio.sleep(0.01)
    keeping.cancel()
    assert (await store.take(want("next", cost=100))).refused_by is None

    async def take(asked: Want) -> Standing:
        raise ValueError("odd")

    store.take = take  # type: ignore[method-assign]
    assert (await guarded.take(want("own"))).refused_by is None
