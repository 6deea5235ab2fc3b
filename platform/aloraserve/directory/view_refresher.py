"""A view that is kept fresh in the background: often while it is used, rarely while it is not."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable

BUSY_PAUSE_S = 0.02
IDLE_PAUSE_S = 0.25
IDLE_AFTER_S = 1.0
MAX_BACKOFF_S = 1.0


class ViewRefresher:
    """Refreshes, one refresh at a time. Begins when it is first used. For one event loop.

    Args:
        refresh: takes in what changed, and raises DirectoryUnavailableError if it cannot.
        clock: seconds that never go back.
    """

    def __init__(self, refresh: Callable[[], Awaitable[None]], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._refresh = refresh
        self._clock = clock
        self._as_of = self._used_at = -math.inf
        self._work: asyncio.Task[None] | None = None
        self._current: asyncio.Task[None] | None = None

    def use(self, as_of: float) -> None:
        """Note that a call needs the view, as of a moment; see that a refresh is under way if it is not that fresh."""
        self._used_at = self._clock()
        self.start()
        if self._as_of < as_of:
            self._begin()

    def start(self) -> None:
        """Keep the view from now on, at the pace of one that no call needs."""
        if self._work is None:
            self._work = asyncio.create_task(self._run())

    async def wait(self, as_of: float) -> None:
        """Wait until a refresh that began at ``as_of`` or later is over.

        Raises:
            DirectoryUnavailableError: one under way failed.
        """
        while self._as_of < as_of:
            # Another one waits for it too.
            await asyncio.shield(self._begin())

    async def close(self) -> None:
        """End what is under way."""
        for task in (self._work, self._current):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def _begin(self) -> asyncio.Task[None]:
        """Return the refresh that is under way, a new one if none is."""
        if self._current is None or self._current.done():
            self._current = asyncio.create_task(self._refreshed())
            self._current.add_done_callback(_mark_seen)
        return self._current

    async def _refreshed(self) -> None:
        began_at = self._clock()
        await self._refresh()
        self._as_of = began_at

    async def _run(self) -> None:
        failures = 0
        while True:
            refresh = self._begin()
            await asyncio.wait({refresh})
            # Calls that wait for the view learn why it failed.
            failures = failures + 1 if refresh.cancelled() or refresh.exception() else 0
            await asyncio.sleep(self._pause_s(failures))

    def _pause_s(self, failures: int) -> float:
        if failures:
            longest = min(MAX_BACKOFF_S, BUSY_PAUSE_S * 2.0 ** min(failures, 10))
            return longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        return BUSY_PAUSE_S if self._clock() - self._used_at < IDLE_AFTER_S else IDLE_PAUSE_S


def _mark_seen(refresh: asyncio.Task[None]) -> None:
    """Keep a failure that nobody waits for from being reported as lost."""
    if not refresh.cancelled():
        refresh.exception()
