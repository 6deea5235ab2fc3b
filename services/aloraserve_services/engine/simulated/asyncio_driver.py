"""A scheduler driven by real time, on an event loop.

Times are those of the model: when a busy machine looks late, what was due happened at its own time, and what follows is
not later for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence

from aloraserve.engine_model.outputs import EngineCoreOutputs
from aloraserve.engine_model.request import Request, RequestId
from aloraserve.engine_model.scheduler import Scheduler
from aloraserve_services.engine.simulated.model_clock import ModelClock


class AsyncioDriver:
    """See the module's docstring. For one event loop; a task of its own begins with the first request.

    Args:
        scheduler: to drive.
        clock: says what time it is, and waits.
        on_outputs: called with what happened, at once.
    """

    def __init__(
        self, scheduler: Scheduler, clock: ModelClock, on_outputs: Callable[[EngineCoreOutputs], None]
    ) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._on_outputs = on_outputs
        self._now_s = -math.inf
        self._alarm_s = math.inf
        self._alarm: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_dead(self) -> bool:
        """Whether its task has ended."""
        return self._task is not None and self._task.done()

    def check(self) -> None:
        """Raise what its task has failed with, if it has."""
        if self._task is not None and self._task.done():
            self._task.result()

    def stop(self) -> None:
        """Let nothing more happen."""
        if self._task is not None:
            with contextlib.suppress(RuntimeError):
                self._task.cancel()

    def catch_up(self) -> float:
        """Take in what has happened by now; return the time."""
        self._now_s = max(self._now_s, self._clock.now_s())
        self._take_in()
        return self._now_s

    def add_requests(self, requests: Sequence[Request]) -> None:
        """Take in requests that come at once."""
        if self._task is None:
            self._task = asyncio.create_task(self._drive(), name="simulated-scheduler")
        self.catch_up()
        for request in requests:
            self._scheduler.add_request(request)
        self._schedule()

    def abort_requests(self, request_ids: Sequence[RequestId]) -> None:
        """Give requests up; those that have ended are passed over."""
        self.catch_up()
        if any(request_id in self._scheduler.requests for request_id in request_ids):
            self._scheduler.abort_requests(request_ids, self._now_s)
            self._schedule()
            self._publish()

    def reset_prefix_cache(self, *, reset_running_requests: bool) -> bool:
        """See :meth:`~aloraserve.engine_model.scheduler.Scheduler.reset_prefix_cache`."""
        self.catch_up()
        is_done = self._scheduler.reset_prefix_cache(self._now_s, reset_running_requests=reset_running_requests)
        self._publish()
        return is_done

    def num_output_tokens(self, request: Request) -> int:
        """Return how many tokens of a request's answer were out at the last look."""
        return self._scheduler.num_output_tokens(request, self._now_s)

    def token_s(self, request: Request, tokens: int) -> float:
        """Return when to look again for a request's token of that number; it may not be there yet then."""
        if request.status.is_finished or request.num_output_tokens >= tokens:
            return -math.inf
        return self._scheduler.token_s(request, tokens)

    async def until(self, at_s: float) -> None:
        """Wait until a time, and take in what has happened."""
        await self._clock.until(at_s)
        self._now_s = max(self._now_s, at_s)
        self.catch_up()

    def _schedule(self) -> None:
        self._scheduler.schedule(self._now_s)
        self._take_in()

    def _publish(self) -> None:
        """Have what changed known at once, before the step ends that runs."""
        self._on_outputs(EngineCoreOutputs(kv_events=self._scheduler.take_events()))

    def _take_in(self) -> None:
        if self._scheduler.next_event_s <= self._now_s:
            self._on_outputs(self._scheduler.advance(self._now_s))
        if self._alarm is not None and self._scheduler.next_event_s < self._alarm_s:
            self._alarm_s = self._scheduler.next_event_s
            self._clock.ring(self._alarm, self._alarm_s)

    async def _drive(self) -> None:
        """Take in each event when it is due, for ever."""
        while True:
            self._alarm, self._alarm_s = asyncio.get_running_loop().create_future(), self._scheduler.next_event_s
            self._clock.ring(self._alarm, self._alarm_s)
            await self._alarm
            self._now_s = max(self._now_s, self._alarm_s)
            self.catch_up()
