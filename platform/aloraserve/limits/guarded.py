"""The fleet's store of limits while it answers, and this gateway's share of each limit while it does not."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import structlog

from aloraserve.errors import DirectoryUnavailableError
from aloraserve.limits.base import LEASE_US, Demand, LimitStore, Settlement, Standing, Want
from aloraserve.limits.memory import MemoryLimits
from aloraserve.routing.breaker import Breaker
from aloraserve.tenants.limits import TenantLimits

MAX_UNSETTLED = 8192
"""Settlements that wait for the server, and demands to be undone; the oldest are lost first, as if all was used."""
SETTLED_TOGETHER = 64
RENEWED_EVERY_S = LEASE_US / 1e6 / 3
OPEN_S = 1.0

log = structlog.get_logger(__name__)


class _Place(NamedTuple):
    """A request's place among its tenant's running ones.

    Args:
        want: that took it.
        is_here: whether it is of this gateway's share.
    """

    want: Want
    is_here: bool


class GuardedLimits:
    """Takes in bounded time whatever becomes of the server, and settles in the background. For one event loop.

    Without the server each gateway lets through its share of every limit, at least 1: all gateways together let
    through no more than the limit, rounded up to one each, and what the fleet's buckets held when the server went.
    What the server may have taken without saying so in time is undone there, so nothing is taken twice.

    :meth:`keep_settling` and :meth:`keep_renewing` run beside it, as long as it is used.

    Args:
        store: of the fleet; closed by :meth:`close`.
        gateways: how many share a limit.
        on_failure: called for each request for which the server did not answer.
        own: takes meanwhile.
    """

    def __init__(
        self,
        store: LimitStore,
        gateways: int,
        *,
        on_failure: Callable[[], None] = lambda: None,
        own: MemoryLimits | None = None,
    ) -> None:
        self._store = store
        self._gateways = gateways
        self._on_failure = on_failure
        self._own = own or MemoryLimits()
        self._breaker = Breaker(failures=1, open_s=OPEN_S)
        self._taken_here: dict[str, None] = {}
        self._places: dict[str, _Place] = {}
        self._unsettled: deque[Settlement] = deque(maxlen=MAX_UNSETTLED)
        self._undone: deque[Want] = deque(maxlen=MAX_UNSETTLED)
        self._has_unsettled = asyncio.Event()

    async def take(self, want: Want) -> Standing:
        """Take what a call needs, or nothing; see :meth:`~aloraserve.limits.base.LimitStore.take`.

        Args:
            want: of the call, which it names until it is settled.
        """
        standing = await self._ask(want)
        is_here = standing is None
        if standing is None:
            standing = self._own.take_now(self._share(want))
        if standing.refused_by is None:
            if is_here:
                self._taken_here[want.call] = None
            if want.limits.concurrency is not None:
                self._places[want.lease] = _Place(want, is_here)
        return standing

    def settle(self, want: Want, correction: Demand) -> None:
        """Have a call's correction made soon, where it was taken; its request keeps its place."""
        want = want._replace(lease="")
        if want.call in self._taken_here:
            del self._taken_here[want.call]
            here = self._share(want)
            used = (sum(amounts) for amounts in zip(want.demand, correction, strict=True))
            missing = Demand(*(amount - cost for amount, cost in zip(used, here.demand, strict=True)))
            self._own.settle_now(Settlement(here, missing))
        elif any(correction):
            self._unsettled.append(Settlement(want, correction))
            self._has_unsettled.set()

    def release(self, lease: str) -> None:
        """Have a request's place given back soon, if it has one."""
        place = self._places.pop(lease, None)
        if place is None:
            return
        ended = Settlement(place.want._replace(call=""), Demand())
        if place.is_here:
            self._own.settle_now(ended)
        else:
            self._unsettled.append(ended)
            self._has_unsettled.set()

    async def keep_settling(self) -> None:
        """Make corrections as they come, until this is cancelled."""
        while True:
            await self._has_unsettled.wait()
            if not await self._settle_all():
                await asyncio.sleep(OPEN_S)

    async def keep_renewing(self) -> None:
        """Keep the places of requests that run, until this is cancelled."""
        while True:
            await asyncio.sleep(RENEWED_EVERY_S)
            await self._renew()

    async def close(self) -> None:
        """Make the corrections that are left, and let go of the store."""
        await self._settle_all()
        await self._store.close()

    async def _ask(self, want: Want) -> Standing | None:
        """Return what the fleet's store says, None if it does not answer, or as nobody foresaw."""
        if not self._breaker.allow():
            return None
        try:
            standing = await self._store.take(want)
        except Exception as error:  # noqa: BLE001
            self._breaker.fail()
            self._on_failure()
            cause = error.message if isinstance(error, DirectoryUnavailableError) else type(error).__name__
            log.warning("limits_taken_here", cause=cause)
            self._undo(want)
            return None
        except asyncio.CancelledError:
            self._undo(want)
            raise
        self._breaker.succeed()
        return standing

    def _undo(self, want: Want) -> None:
        self._undone.append(want)
        self._has_unsettled.set()

    def _share(self, want: Want) -> Want:
        """Return what a request takes of this gateway's share."""
        limits = per_gateway(want.limits, self._gateways)
        here = want._replace(limits=limits)
        amounts = (min(cost, limit) if limit else 0 for cost, limit in zip(want.demand, here.per_minute, strict=True))
        return here._replace(demand=Demand(*amounts))

    async def _settle_all(self) -> bool:
        """Make the corrections that wait; return whether the server took them."""
        while self._unsettled:
            some = [self._unsettled.popleft() for _ in range(min(len(self._unsettled), SETTLED_TOGETHER))]
            try:
                await self._store.settle(some)
            except DirectoryUnavailableError as error:
                # They may have arrived, and would count twice.
                log.warning("limits_not_settled", requests=len(some), cause=error.message)
                return False
        while self._undone:
            undone = [self._undone.popleft() for _ in range(min(len(self._undone), SETTLED_TOGETHER))]
            try:
                await self._store.undo(undone)
            except DirectoryUnavailableError as error:
                log.warning("limits_not_undone", requests=len(undone), cause=error.message)
                self._undone.extendleft(reversed(undone))
                return False
        self._has_unsettled.clear()
        return True

    async def _renew(self) -> None:
        places = list(self._places.values())
        await self._own.renew([place.want for place in places if place.is_here])
        try:
            await self._store.renew([place.want for place in places if not place.is_here])
        except DirectoryUnavailableError as error:
            log.warning("leases_not_renewed", cause=error.message)


def per_gateway(limits: TenantLimits, gateways: int) -> TenantLimits:
    """Return one gateway's share of limits; at least 1 of each, so that nothing is refused for good."""
    names = ("requests_per_minute", "tokens_per_minute", "uncached_tokens_per_minute", "concurrency")
    given = {name: getattr(limits, name) for name in names}
    return msgspec.structs.replace(
        limits, **{name: None if limit is None else max(limit // gateways, 1) for name, limit in given.items()}
    )
