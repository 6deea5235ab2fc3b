"""Memory of requests that are being received and read, by HTTP and gRPC alike, shared between tenants."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from aloraserve.errors import OverloadedError
from aloraserve.routing.fair_share import TenantShare
from aloraserve.tenants import Caller
from aloraserve_services.channel.places import Places

TOTAL_BODIES = 64
"""As many of the greatest length are in memory at once. More are refused, but for tenants with less than their share:
up to twice as many."""


class HeldBytes:
    """Bytes of one request that are in memory.

    Args:
        places: that they are counted in.
        share: of the tenant.
    """

    def __init__(self, places: Places, share: TenantShare) -> None:
        self._places = places
        self._share = share
        self._amount = 0

    def add(self, amount: int) -> None:
        """Count more of them.

        Raises:
            OverloadedError: there is no room for them.
        """
        if not self._places.has_room(self._share, amount):
            raise OverloadedError("too many long bodies are being read; retry later")
        self._places.take(self._share, amount)
        self._amount += amount

    def shrink(self, amount: int) -> None:
        """Count no more than so many."""
        if amount < self._amount:
            self._places.leave(self._share, self._amount - amount)
            self._amount = amount

    def release(self) -> None:
        """Count none of them any more."""
        self.shrink(0)


class BodyBudget:
    """See the module's docstring. For one event loop.

    Args:
        max_bytes: of one request.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._places = Places(TOTAL_BODIES * max_bytes)

    @property
    def held_bytes(self) -> int:
        """Bytes of all requests."""
        return self._places.taken

    @contextlib.contextmanager
    def holding(self, caller: Caller) -> Iterator[HeldBytes]:
        """Return what counts a request's bytes until the context ends."""
        held = HeldBytes(self._places, TenantShare(caller.tenant or ""))
        try:
            yield held
        finally:
            held.release()
