"""Calls that a gateway has in progress: no more than it has room for, and none that are new once it drains."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from aloraserve.errors import DrainingError, OverloadedError
from aloraserve.routing.fair_share import TenantShare
from aloraserve.tenants import Caller
from aloraserve_services.channel.places import Places


class CallSlots:
    """Counts calls from the end of their body to the end of their answer. For one event loop.

    A tenant that takes all of them leaves as many as are its share to each other tenant: those calls then meet in the
    queue for places, where they displace its own.

    Args:
        limit: calls at once; those of tenants with less than their share are beyond it, see
            :class:`~aloraserve_services.channel.places.Places`.
        weight_of: returns the weight of a caller's tenant.
    """

    def __init__(self, limit: int, weight_of: Callable[[Caller], float] = lambda caller: 1.0) -> None:
        self._places = Places(limit)
        self._weight_of = weight_of
        self._idle = asyncio.Event()
        self._idle.set()
        self._leaving = self._draining = False

    @property
    def taken(self) -> int:
        """How many calls are in progress."""
        return self._places.taken

    @property
    def is_leaving(self) -> bool:
        """Whether new calls should go elsewhere, though they may still be taken here."""
        return self._leaving

    def check(self, caller: Caller) -> None:
        """Raise what :meth:`held` would raise now.

        Raises:
            DrainingError: the gateway is about to stop.
            OverloadedError: as many calls as there is room for are in progress, and the tenant has its share of them.
        """
        if self._draining:
            raise DrainingError("this gateway is about to stop; retry at once")
        if not self._places.has_room(self._share_of(caller)):
            raise OverloadedError("too many requests are in progress; retry later")

    @contextlib.contextmanager
    def held(self, caller: Caller) -> Iterator[None]:
        """Be a caller's call in progress; raises as :meth:`check` does."""
        self.check(caller)
        share = self._share_of(caller)
        self._places.take(share)
        self._idle.clear()
        try:
            yield
        finally:
            self._places.leave(share)
            if not self._places.taken:
                self._idle.set()

    def announce(self) -> None:
        """Have probes say that no more calls will be taken soon."""
        self._leaving = True

    async def drain(self, timeout_s: float) -> int:
        """Take no more calls; return once none is in progress or the time is over, with how many are left."""
        self._leaving = self._draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        return self._places.taken

    def _share_of(self, caller: Caller) -> TenantShare:
        return TenantShare(caller.tenant or "", self._weight_of(caller))
