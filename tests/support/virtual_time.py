"""Time for tests of what waits: it passes as soon as nothing else happens."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any, TypeVar

Result = TypeVar("Result")
TURNS = 20
"""Turns of the event loop without a new sleeper after which nothing else happens."""


class VirtualTime:
    """A clock, its sleep and its timers: time passes as soon as nothing else happens."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()

    def clock(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        await self._sleeper(seconds)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> asyncio.Future[None]:
        """Make a call after some seconds, unless what is returned is cancelled."""
        sleeper = self._sleeper(seconds)
        sleeper.add_done_callback(lambda done: None if done.cancelled() else callback())
        return sleeper

    def _sleeper(self, seconds: float) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now_s + max(seconds, 0.0), next(self._numbers), future))
        return future

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Let time pass until the work is done, and return its result."""
        task = asyncio.ensure_future(work)
        while not task.done():
            await self.settle()
            if not task.done():
                assert self._sleepers, "everything waits, and no time would change that"
                self._wake()
        return task.result()

    async def settle(self) -> None:
        """Let everything happen that needs no time."""
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def pass_s(self, seconds: float) -> None:
        """Let some time pass."""
        await self.run(self.sleep(seconds))

    def _wake(self) -> None:
        at, _, future = heapq.heappop(self._sleepers)
        self.now_s = max(self.now_s, at)
        if not future.done():
            future.set_result(None)
