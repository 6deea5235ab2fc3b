"""Calls that a gateway has in progress: no more than it has room for, and none that are new once it drains."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from aloraserve.errors import DrainingError, OverloadedError


class CallSlots:
    """Counts calls from the end of their body to the end of their answer. For one event loop.

    Args:
        limit: calls at once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._leaving = self._draining = False

    @property
    def is_leaving(self) -> bool:
        """Whether new calls should go elsewhere, though they may still be taken here."""
        return self._leaving

    def check(self) -> None:
        """Raise what :meth:`held` would raise now.

        Raises:
            DrainingError: the gateway is about to stop.
            OverloadedError: as many calls as there is room for are in progress.
        """
        if self._draining:
            raise DrainingError("this gateway is about to stop; retry at once")
        if self._taken >= self._limit:
            raise OverloadedError("too many requests are in progress; retry later")

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Be a call in progress; raises as :meth:`check` does."""
        self.check()
        self._taken += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._taken -= 1
            if not self._taken:
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
        return self._taken
