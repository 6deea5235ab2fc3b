"""The time of a simulated engine: real seconds, but for those in which it hangs."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable
from itertools import count
from typing import Protocol

_ROUNDING_S = 1e-6
"""What is due within that time is due now."""


class Timer(Protocol):
    """A call that is still to be made."""

    def cancel(self) -> object:
        """Do not make it."""


CallLater = Callable[[float, Callable[[], None]], Timer]
"""Makes a call after some seconds."""


def call_later(delay_s: float, callback: Callable[[], None]) -> Timer:
    """Make a call after some seconds, on the event loop that runs."""
    return asyncio.get_running_loop().call_later(delay_s, callback)


class ModelClock:
    """See the module's docstring. One timer serves all that wait.

    Args:
        clock: monotonic seconds.
        call_later: makes a call after some of them.
    """

    def __init__(self, clock: Callable[[], float], call_later: CallLater) -> None:
        self._clock = clock
        self._call_later = call_later
        self._hung_s = 0.0
        self._hangs_since_s: float | None = None
        self._alarms: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()
        self._timer: Timer | None = None
        self._timer_s = math.inf

    def now_s(self) -> float:
        """Return the time; it stands still while the engine hangs."""
        real_s = self._clock() if self._hangs_since_s is None else self._hangs_since_s
        return real_s - self._hung_s

    def hang(self, is_hanging: bool) -> None:
        """Stand still, or go on."""
        if is_hanging and self._hangs_since_s is None:
            self._hangs_since_s = self._clock()
        elif not is_hanging and self._hangs_since_s is not None:
            self._hung_s += self._clock() - self._hangs_since_s
            self._hangs_since_s = None
            self._set_timer()

    async def until(self, at_s: float) -> None:
        """Wait until that time."""
        if self._hangs_since_s is not None or at_s - self.now_s() > _ROUNDING_S:
            alarm = asyncio.get_running_loop().create_future()
            self.ring(alarm, at_s)
            await alarm

    def ring(self, alarm: asyncio.Future[None], at_s: float) -> None:
        """Have an alarm done at a time, never if that is infinite; of several times the earliest counts."""
        if at_s < math.inf:
            heapq.heappush(self._alarms, (at_s, next(self._numbers), alarm))
            self._set_timer()

    def _set_timer(self) -> None:
        """Have the timer go off in time for the first alarm."""
        alarms = self._alarms
        while alarms and alarms[0][2].done():
            heapq.heappop(alarms)
        if alarms and alarms[0][0] < self._timer_s and self._hangs_since_s is None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_s = alarms[0][0]
            self._timer = self._call_later(max(self._timer_s - self.now_s(), 0.0), self._go_off)

    def _go_off(self) -> None:
        """Ring what is due; alarms wait while the engine hangs."""
        self._timer, self._timer_s = None, math.inf
        if self._hangs_since_s is None:
            due_s = self.now_s() + _ROUNDING_S
            while self._alarms and self._alarms[0][0] <= due_s:
                alarm = heapq.heappop(self._alarms)[2]
                if not alarm.done():
                    alarm.set_result(None)
            self._set_timer()
