"""The time of a simulated engine: real seconds, but for those in which it hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

_LEAST_SLEEP_S = 0.0005
"""What is due within that time is done now: the event loop's own timers are not finer."""


class ModelClock:
    """See the module's docstring.

    Args:
        clock: monotonic seconds.
        sleep: waits for some of them.
    """

    def __init__(self, clock: Callable[[], float], sleep: Callable[[float], Awaitable[None]]) -> None:
        self._clock = clock
        self._sleep = sleep
        self._hung_s = 0.0
        self._hangs_since_s: float | None = None
        self._runs = asyncio.Event()
        self._runs.set()

    def now_s(self) -> float:
        """Return the time; it stands still while the engine hangs."""
        real_s = self._clock() if self._hangs_since_s is None else self._hangs_since_s
        return real_s - self._hung_s

    def hang(self, is_hanging: bool) -> None:
        """Stand still, or go on."""
        if is_hanging and self._hangs_since_s is None:
            self._hangs_since_s = self._clock()
            self._runs.clear()
        elif not is_hanging and self._hangs_since_s is not None:
            self._hung_s += self._clock() - self._hangs_since_s
            self._hangs_since_s = None
            self._runs.set()

    async def until(self, at_s: float) -> None:
        """Wait until that time, or just before."""
        await self._runs.wait()
        while (left_s := at_s - self.now_s()) > _LEAST_SLEEP_S:
            await self._sleep(left_s)
            await self._runs.wait()
