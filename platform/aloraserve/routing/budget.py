"""A bound on a wait that distinguishes a slow answer from a process that was itself held up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Budget:
    """Ends a block with a TimeoutError when its budget is over, as :func:`asyncio.timeout` does.

    Something that held this process up may have used the budget while the answer lay unread in the socket. A wait that
    took much longer than it was to take says nothing of the other side, and is made again, a few times.

    Args:
        seconds: the budget.
        clock: seconds that never go back.
        repeats: how many waits are made again at most.
    """

    def __init__(self, seconds: float, clock: Callable[[], float], repeats: int) -> None:
        self._seconds = seconds
        self._clock = clock
        self._repeats = repeats
        self._is_over = False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a budget needs a task to end")
        self._task = task
        self._cancelling = task.cancelling()
        self._loop = asyncio.get_running_loop()
        self._wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._timer.cancel()
        # As asyncio.timeout does: a cancellation by somebody else stays one.
        if self._is_over and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _wait(self) -> None:
        self._started = self._clock()
        self._timer = self._loop.call_later(self._seconds, self._end)

    def _end(self) -> None:
        if self._repeats and self._clock() - self._started > 2 * self._seconds:
            self._repeats -= 1
            self._wait()
        else:
            self._is_over = True
            self._task.cancel()
