"""The fleet's store of limits while it answers, and this gateway's share of each limit while it does not."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable

import msgspec
import structlog

from aloraserve.errors import DirectoryUnavailableError
from aloraserve.limits.base import LEASE_US, Demand, LimitStore, Settlement, Standing, Want
from aloraserve.limits.memory import MemoryLimits
from aloraserve.routing.breaker import Breaker
from aloraserve.tenants.limits import TenantLimits

MAX_UNSETTLED = 8192
"""Settlements that wait for the server; the oldest are lost first, as if what they correct had been used."""
SETTLED_TOGETHER = 64
RENEWED_EVERY_S = LEASE_US / 1e6 / 3
OPEN_S = 1.0

log = structlog.get_logger(__name__)


class GuardedLimits:
    """Takes in bounded time whatever becomes of the server, and settles in the background. For one event loop.

    Without the server each gateway lets through its share of every limit, at least 1: all gateways together let
    through no more than the limit, rounded up to one each, and what the fleet's buckets held when the server went.

    Args:
        store: of the fleet; closed at the end of :meth:`running`.
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
        self._leases: dict[str, Want] = {}
        self._unsettled: deque[Settlement] = deque(maxlen=MAX_UNSETTLED)
        self._has_unsettled = asyncio.Event()

    async def take(self, want: Want, call: str) -> Standing:
        """Take what a request needs, or nothing; see :meth:`~aloraserve.limits.base.LimitStore.take`.

        Args:
            want: of the request.
            call: names it until it is settled.
        """
        standing = await self._ask(want)
        if standing is None:
            here = self._share(want)
            standing = self._own.take_now(here)
            if standing.refused_by is None:
                self._taken_here[call] = None
        elif standing.refused_by is None and want.limits.concurrency is not None:
            self._leases[want.lease] = want
        return standing

    def settle(self, want: Want, call: str, correction: Demand) -> None:
        """Have a request's correction made soon, where it was taken."""
        self._leases.pop(want.lease, None)
        if call in self._taken_here:
            del self._taken_here[call]
            here = self._share(want)
            used = (sum(amounts) for amounts in zip(want.demand, correction, strict=True))
            missing = Demand(*(amount - cost for amount, cost in zip(used, here.demand, strict=True)))
            self._own.settle_now(Settlement(here, missing))
        elif want.lease or any(correction):
            self._unsettled.append(Settlement(want, correction))
            self._has_unsettled.set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Settle and renew leases until the context ends."""
        tasks = [
            asyncio.create_task(self._keep_settling(), name="settle_limits"),
            asyncio.create_task(self._keep_renewing(), name="renew_leases"),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._settle_all()
            await self._store.close()

    async def _ask(self, want: Want) -> Standing | None:
        """Return what the fleet's store says, None if it does not answer."""
        if not self._breaker.allow():
            return None
        try:
            standing = await self._store.take(want)
        except DirectoryUnavailableError as error:
            self._breaker.fail()
            self._on_failure()
            log.warning("limits_taken_here", cause=error.message)
            return None
        self._breaker.succeed()
        return standing

    def _share(self, want: Want) -> Want:
        """Return what a request takes of this gateway's share."""
        limits = share_of(want.limits, self._gateways)
        here = want._replace(limits=limits)
        amounts = (min(cost, limit) if limit else 0 for cost, limit in zip(want.demand, here.per_minute, strict=True))
        return here._replace(demand=Demand(*amounts))

    async def _keep_settling(self) -> None:
        while True:
            await self._has_unsettled.wait()
            if not await self._settle_all():
                await asyncio.sleep(OPEN_S)

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
        self._has_unsettled.clear()
        return True

    async def _keep_renewing(self) -> None:
        while True:
            await asyncio.sleep(RENEWED_EVERY_S)
            await self._renew(tuple(self._leases.values()))

    async def _renew(self, wants: Iterable[Want]) -> None:
        try:
            await self._store.renew(wants)
        except DirectoryUnavailableError as error:
            log.warning("leases_not_renewed", cause=error.message)


def share_of(limits: TenantLimits, gateways: int) -> TenantLimits:
    """Return one gateway's share of limits; at least 1 of each, so that nothing is refused for good."""
    names = ("requests_per_minute", "tokens_per_minute", "uncached_tokens_per_minute", "concurrency")
    given = {name: getattr(limits, name) for name in names}
    return msgspec.structs.replace(
        limits, **{name: None if limit is None else max(limit // gateways, 1) for name, limit in given.items()}
    )
