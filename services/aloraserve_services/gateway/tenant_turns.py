"""Turns of tenants at something that is dear: few at a time of each, and a bounded number that wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from aloraserve.errors import OverloadedError


@dataclass(slots=True)
class _Turns:
    free: asyncio.Semaphore
    here: int = 0


class TenantTurns:
    """See the module's docstring. For one event loop.

    Args:
        what: is done, for messages.
        at_once: turns that a tenant has at a time.
        waiting: of a tenant's others that may wait for one; more are refused.
    """

    def __init__(self, what: str, *, at_once: int, waiting: int) -> None:
        self._what = what
        self._at_once = at_once
        self._most = at_once + waiting
        self._tenants: dict[str, _Turns] = {}

    @contextlib.asynccontextmanager
    async def turn(self, tenant: str | None) -> AsyncIterator[None]:
        """Wait for a turn, and have it until the context ends.

        Args:
            tenant: whose; callers without a tenant are one.

        Raises:
            OverloadedError: too many of the tenant's wait.
        """
        turns = self._tenants.setdefault(tenant or "", _Turns(asyncio.Semaphore(self._at_once)))
        if turns.here >= self._most:
            raise OverloadedError(f"{turns.here} {self._what} of the tenant are in progress; retry later")
        turns.here += 1
        try:
            async with turns.free:
                yield
        finally:
            turns.here -= 1
            if not turns.here:
                del self._tenants[tenant or ""]
