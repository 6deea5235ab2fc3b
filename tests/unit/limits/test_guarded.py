"""Limits while their server answers, is gone, and is back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from aloraserve.errors import DirectoryUnavailableError
from aloraserve.limits.base import Demand, Settlement, Standing, Want
from aloraserve.limits.guarded import GuardedLimits, share_of
from aloraserve.limits.memory import MemoryLimits
from aloraserve.tenants.limits import TenantLimits


class FaultyLimits(MemoryLimits):
    """A store whose server may be gone."""

    is_gone = False
    asked = 0
    renewed = 0
    is_closed = False

    async def take(self, want: Want) -> Standing:
        self.asked += 1
        self._check()
        return await super().take(want)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        self._check()
        await super().settle(settlements)

    async def renew(self, wants: Iterable[Want]) -> None:
        self._check()
        self.renewed += len(list(wants))

    async def close(self) -> None:
        self.is_closed = True

    def _check(self) -> None:
        if self.is_gone:
            raise DirectoryUnavailableError("gone")


def want(lease: str = "a", cost: int = 10, limits: TenantLimits | None = None) -> Want:
    return Want("acme", limits or TenantLimits(tokens_per_minute=100), Demand(1, cost, 0), lease)


async def admitted(guarded: GuardedLimits, calls: int, limits: TenantLimits | None = None) -> int:
    standings = [await guarded.take(want(str(n), limits=limits), str(n)) for n in range(calls)]
    return sum(standing.refused_by is None for standing in standings)


async def test_a_gateway_alone_lets_through_its_share_and_asks_the_server_rarely() -> None:
    store, failures = FaultyLimits(), []
    store.is_gone = True
    guarded = GuardedLimits(store, 2, on_failure=lambda: failures.append(1))
    assert await admitted(guarded, 40) == 5, "half of the limit, neither none nor all"
    assert store.asked == len(failures) == 1


async def test_a_share_is_never_nothing() -> None:
    shared = share_of(TenantLimits(requests_per_minute=3, tokens_per_minute=1000, concurrency=1, weight=4.0), 4)
    assert shared == TenantLimits(requests_per_minute=1, tokens_per_minute=250, concurrency=1, weight=4.0)


async def test_a_request_larger_than_a_gateways_share_is_let_through_and_owed() -> None:
    store = FaultyLimits()
    store.is_gone = True
    guarded = GuardedLimits(store, 10)
    large = want(cost=90)
    assert (await guarded.take(large, "large")).refused_by is None
    guarded.settle(large, "large", Demand())
    refused = await guarded.take(want(cost=1), "next")
    assert refused.wait_us > 7 * 60_000_000, "nine minutes of a share of 10 per minute"


async def test_corrections_are_made_in_the_background_and_leases_renewed() -> None:
    store = FaultyLimits()
    guarded = GuardedLimits(store, 1)
    async with guarded.running():
        limits = TenantLimits(tokens_per_minute=100, concurrency=1)
        first = want(cost=100, limits=limits)
        assert (await guarded.take(first, "first")).refused_by is None
        await guarded._renew(tuple(guarded._leases.values()))
        assert store.renewed == 1
        guarded.settle(first, "first", Demand(0, -100, 0))
        for _ in range(3):
            await asyncio.sleep(0)
        assert (await guarded.take(want(cost=100, limits=limits), "second")).refused_by is None
    assert store.is_closed


async def test_what_was_taken_here_is_settled_here() -> None:
    store = FaultyLimits()
    store.is_gone = True
    guarded = GuardedLimits(store, 1)
    limits = TenantLimits(concurrency=1)
    asked = want(limits=limits)
    assert (await guarded.take(asked, "a")).refused_by is None
    assert (await guarded.take(asked._replace(lease="b"), "b")).refused_by == "concurrency"
    guarded.settle(asked, "a", Demand())
    assert (await guarded.take(asked._replace(lease="b"), "b")).refused_by is None


async def test_settlements_that_the_server_does_not_take_are_dropped_and_bounded() -> None:
    store = FaultyLimits()
    guarded = GuardedLimits(store, 1)
    first = want()
    await guarded.take(first, "a")
    store.is_gone = True
    guarded.settle(first, "a", Demand(0, -10, 0))
    assert not await guarded._settle_all()
    store.is_gone = False
    assert await guarded._settle_all(), "what may have arrived is not sent again"
    assert (await store.take(want(cost=0))).remaining(1) == 90
