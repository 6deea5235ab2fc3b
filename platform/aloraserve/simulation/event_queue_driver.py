"""A scheduler driven by simulated time: an event of the queue for each of its own.

A step's KV events are handed on when it begins; vLLM does so when it ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from aloraserve.engine_model.outputs import EngineCoreOutputs
from aloraserve.engine_model.request import Request, RequestId
from aloraserve.engine_model.scheduler import Scheduler
from aloraserve.simulation.simulated_loop import SimulatedLoop


class EventQueueDriver:
    """See the module's docstring.

    Args:
        scheduler: to drive.
        loop: simulated time.
        on_outputs: called with what each event brought.
    """

    def __init__(
        self, scheduler: Scheduler, loop: SimulatedLoop, on_outputs: Callable[[EngineCoreOutputs], None]
    ) -> None:
        self._scheduler = scheduler
        self._loop = loop
        self._on_outputs = on_outputs
        self._wake_s = math.inf

    def add_requests(self, requests: Sequence[Request]) -> None:
        """Take in requests that come at once."""
        for request in requests:
            self._scheduler.add_request(request)
        self._schedule()

    def abort_requests(self, request_ids: Sequence[RequestId]) -> None:
        """Give requests up."""
        self._scheduler.abort_requests(request_ids, self._loop.now_s)
        self._schedule()

    def stop(self) -> None:
        """Let nothing more happen."""
        self._wake_s = math.inf

    def _schedule(self) -> None:
        self._scheduler.schedule(self._loop.now_s)
        self._arm()

    def _arm(self) -> None:
        """Have the scheduler advanced in time; an event that a new request brought forward is armed again."""
        wake_s = self._scheduler.next_event_s
        if wake_s != self._wake_s:
            self._wake_s = wake_s
            if wake_s < math.inf:
                self._loop.at(wake_s, lambda: self._wake(wake_s))

    def _wake(self, wake_s: float) -> None:
        if wake_s == self._wake_s:
            self._wake_s = math.inf
            outputs = self._scheduler.advance(wake_s)
            outputs.kv_events += self._scheduler.take_events()
            self._arm()
            self._on_outputs(outputs)
