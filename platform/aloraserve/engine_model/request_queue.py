"""The requests that wait to begin, in vLLM's two orders (``v1/core/sched/request_queue.py``)."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from aloraserve.engine_model.request import Request, RequestId
from aloraserve.routing.scheduling import SchedulingPolicy


class RequestQueue(Protocol):
    """Waiting requests in an order of their own."""

    def __len__(self) -> int:
        """How many wait."""
        ...

    def add(self, request: Request) -> None:
        """Take in one that came."""
        ...

    def peek(self) -> Request:
        """Return the one that is to begin next; there is one."""
        ...

    def pop(self) -> Request:
        """Take it out."""
        ...

    def put_back(self, requests: Sequence[Request]) -> None:
        """Take in those that were preempted or passed over, in their order: before all that wait, where that exists."""
        ...

    def remove(self, request: Request) -> None:
        """Take out one that is given up."""
        ...


class FcfsQueue:
    """First come, first served."""

    def __init__(self) -> None:
        self._requests: deque[Request] = deque()

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: Request) -> None:
        self._requests.append(request)

    def peek(self) -> Request:
        return self._requests[0]

    def pop(self) -> Request:
        return self._requests.popleft()

    def put_back(self, requests: Sequence[Request]) -> None:
        self._requests.extendleft(reversed(requests))

    def remove(self, request: Request) -> None:
        self._requests.remove(request)


class PriorityQueue:
    """The lowest :attr:`~aloraserve.engine_model.request.Request.rank` first; a preempted request keeps its own."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[int, float, RequestId], Request]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, request: Request) -> None:
        heapq.heappush(self._heap, (request.rank, request))

    def peek(self) -> Request:
        return self._heap[0][1]

    def pop(self) -> Request:
        return heapq.heappop(self._heap)[1]

    def put_back(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self.add(request)

    def remove(self, request: Request) -> None:
        self._heap.remove((request.rank, request))
        heapq.heapify(self._heap)


def request_queue(policy: SchedulingPolicy) -> RequestQueue:
    """Return an empty queue."""
    return PriorityQueue() if policy == "priority" else FcfsQueue()
