"""Calls that wait in a gateway for a place on a replica: a bounded queue that no tenant can fill for others."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from aloraserve.routing.fair_share import NO_TENANT, TenantShare
from aloraserve_services.channel.connection import ReplicaConnection

LEAST_WAIT_S, MOST_WAIT_S = 1.0, 60.0
NEWEST = 0.1
"""Weight of the last call in the mean time between two that get a place."""


class PoolFullError(Exception):
    """Raised when too many calls wait for a place already.

    Args:
        message: for the log.
        retry_after_s: when those that wait are expected to have their places.
    """

    def __init__(self, message: str, retry_after_s: float = LEAST_WAIT_S) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(eq=False, slots=True)
class WaitingCall:
    """A call that waits.

    Args:
        rank: ids of replicas, best first.
        share: of its tenant.
        place: what it waits for.
    """

    rank: Sequence[str]
    share: TenantShare
    place: asyncio.Future[ReplicaConnection]


class WaitingCalls:
    """A queue per tenant, of a bounded number of calls together.

    Where it is full, the tenant with the most calls for its weight loses its last one to a tenant with fewer.

    Args:
        most: calls that wait.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._queues: dict[str, deque[WaitingCall]] = {}
        self._count = 0
        self._between_s = 0.0
        self._served_at: float | None = None

    def __len__(self) -> int:
        """How many calls wait."""
        return self._count

    def has(self, share: TenantShare | None) -> bool:
        """Return whether calls of a tenant wait."""
        return (share or NO_TENANT).tenant in self._queues

    def add(self, waiter: WaitingCall, *, is_next: bool) -> None:
        """Have a call wait.

        Args:
            waiter: the call.
            is_next: whether it waited before: it is the first of its tenant, and never one too many.

        Raises:
            PoolFullError: its tenant has as many waiting for its weight as any other, and there is no room.
        """
        if not is_next and self._count >= self._most:
            self._make_room(waiter.share)
        queue = self._queues.setdefault(waiter.share.tenant, deque())
        self._count += 1
        if is_next:
            queue.appendleft(waiter)
        else:
            queue.append(waiter)

    def first(self, share: TenantShare) -> WaitingCall | None:
        """Return the first call of a tenant that waits."""
        queue = self._queues.get(share.tenant)
        while queue and queue[0].place.done():
            self.remove(queue[0])
        return queue[0] if queue else None

    def firsts(self) -> list[WaitingCall | None]:
        """Return the first call of each tenant; who is first in turn is last in the next."""
        if len(self._queues) > 1:
            tenant = next(iter(self._queues))
            self._queues[tenant] = self._queues.pop(tenant)
        return [self.first(queue[0].share) for queue in list(self._queues.values())]

    def remove(self, waiter: WaitingCall) -> None:
        """Have a call wait no more; one that does not changes nothing."""
        queue = self._queues.get(waiter.share.tenant)
        if queue is not None and waiter in queue:
            queue.remove(waiter)
            self._count -= 1
            if not self._count:
                self._served_at = None
            if not queue:
                del self._queues[waiter.share.tenant]

    def served(self, now_s: float) -> None:
        """Note that a call which waited has its place."""
        if self._served_at is not None:
            self._between_s += NEWEST * (now_s - self._served_at - self._between_s)
        self._served_at = now_s

    @property
    def retry_after_s(self) -> float:
        """When those that wait are expected to have their places."""
        return min(max(self._count * self._between_s, LEAST_WAIT_S), MOST_WAIT_S)

    def _make_room(self, share: TenantShare) -> None:
        """Refuse the last call of the tenant that has the most for its weight, if that is another one."""
        own = len(self._queues.get(share.tenant, ())) + 1
        others = ((_load(queue), tenant) for tenant, queue in self._queues.items() if tenant != share.tenant)
        most, longest = max(others, default=(0.0, ""))
        if most <= own / share.weight:
            raise PoolFullError(f"{self._most} calls wait already", self.retry_after_s)
        last = self._queues[longest][-1]
        self.remove(last)
        if not last.place.done():
            message = f"{self._most} calls wait already, most of them its tenant's"
            last.place.set_exception(PoolFullError(message, self.retry_after_s))


def _load(queue: deque[WaitingCall]) -> float:
    return len(queue) / queue[0].share.weight
