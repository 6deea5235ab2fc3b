"""Simulated time: callbacks in the order of their times, and an asyncio event loop that lives in it.

What runs here uses asyncio as it does live: tasks, events, :func:`asyncio.sleep` and :func:`asyncio.timeout`, which
wait in simulated time and so in no time at all. Equal times keep the order in which they were added: a run is
deterministic.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, cast


class SimulatedLoop:
    """See the module's docstring. It has what tasks, futures and timeouts ask of an asyncio loop.

    Attributes:
        now_s: the time.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self._loop = cast(asyncio.AbstractEventLoop, self)
        self._heap: list[tuple[float, int, Callable[[], Any], asyncio.Handle | None]] = []
        self._ready: deque[asyncio.Handle] = deque()
        self._added = 0
        self._is_stopping = False
        self._is_running = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._error: BaseException | None = None

    def at(self, time_s: float, call: Callable[[], Any]) -> None:
        """Have ``call`` called at ``time_s``, or now if that is past."""
        self._push(time_s, call, None)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task that is kept until it ends; what it raises ends :meth:`run`."""
        task = self.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def run(self) -> None:
        """Call everything, what is added meanwhile too, until nothing is left or :meth:`stop` is called.

        Raises:
            Exception: what a callback or a task raised.
        """
        outer = asyncio._get_running_loop()
        asyncio._set_running_loop(self._loop)
        self._is_stopping, self._is_running = False, True
        try:
            self._run()
        finally:
            self._is_running = False
            asyncio._set_running_loop(outer)

    def stop(self) -> None:
        """Have :meth:`run` return after the callback that runs now."""
        self._is_stopping = True

    def close(self) -> None:
        """End all tasks; nothing that was added is called any more."""
        self._heap.clear()
        for task in self._tasks:
            task.cancel()
        self.run()

    def time(self) -> float:
        return self.now_s

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self._loop, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now_s + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self._loop, context)
        self._push(when, handle._run, handle)
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self._loop)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self._loop, name=name, context=context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self._error = self._error or context.get("exception") or RuntimeError(context["message"])

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self._is_running

    def is_closed(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Leave it where it is; its time passes nobody by."""

    def _push(self, time_s: float, call: Callable[[], Any], handle: asyncio.Handle | None) -> None:
        self._added += 1
        heapq.heappush(self._heap, (max(time_s, self.now_s), self._added, call, handle))

    def _run(self) -> None:
        heap, ready = self._heap, self._ready
        while not self._is_stopping:
            while ready:
                handle = ready.popleft()
                if not handle.cancelled():
                    handle._run()
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if not heap:
                return
            time_s, _, call, timer = heapq.heappop(heap)
            if timer is None or not timer.cancelled():
                self.now_s = time_s
                call()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._error = self._error or error
