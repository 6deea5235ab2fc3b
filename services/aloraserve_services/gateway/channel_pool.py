"""Engine replicas as the pool that serving sends its calls to, over one connection to each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Self

from aloraserve.routing.fair_share import NO_TENANT, TenantShare
from aloraserve.routing.leaving import LeavingReplicas
from aloraserve.routing.receipts import Outcome
from aloraserve.serving.engine_messages import EngineCall, engine_outcome
from aloraserve.serving.replica_pool import ReplicaPool, Replies, Reservation
from aloraserve_services.channel.connection import CallFailedError, ChannelLostError, ReplicaConnection
from aloraserve_services.channel.replies import ChannelReplies
from aloraserve_services.gateway.replica_links import ReplicaLinks
from aloraserve_services.gateway.waiting_calls import PoolFullError, WaitingCall, WaitingCalls


class NoConnectionError(ChannelLostError):
    """Raised for those that wait for a place when one is to be had by Serve's handle alone."""


class ChannelPool:
    """See :class:`~aloraserve.serving.replica_pool.ReplicaPool`.

    A place is reserved without asking the replica: from its capacity and the calls that this gateway has there. One
    that other gateways have filled refuses the call, which then moves on and is the first of its tenant that waits.

    Args:
        links: connections to the replicas.
        handle: the pool over Serve's handle, for replicas that a connection does not reach.
        max_queued: calls that may wait for a place.
        leaving: replicas that get no new calls while others stay.
    """

    def __init__(
        self, links: ReplicaLinks, handle: ReplicaPool, *, max_queued: int, leaving: LeavingReplicas | None = None
    ) -> None:
        self._links = links
        self._handle = handle
        self._leaving = leaving or LeavingReplicas()
        self._queue = WaitingCalls(max_queued)
        self._on_wait: Callable[[], None] = lambda: None
        links.notify(self._give)

    @property
    def waiting(self) -> int:
        """Calls that wait for a place."""
        return len(self._queue)

    def notify(self, on_wait: Callable[[], None]) -> None:
        """Have ``on_wait`` called whenever one more call waits."""
        self._on_wait = on_wait

    def reserve(self, rank: Sequence[str], share: TenantShare | None = None) -> ChannelReservation:
        """See the contract."""
        return ChannelReservation(self, rank, share)

    def outcome_of(self, error: Exception) -> Outcome:
        """See the contract."""
        if isinstance(error, ChannelLostError):
            return Outcome.LOST
        if isinstance(error, PoolFullError):
            return Outcome.OVERLOADED
        if isinstance(error, CallFailedError):
            return engine_outcome(error.cause) if error.is_lost else Outcome.FAILED
        return self._handle.outcome_of(error)

    def reserve_by_handle(
        self, rank: Sequence[str], share: TenantShare | None = None
    ) -> AbstractAsyncContextManager[Reservation] | None:
        """Return a reservation through Serve's handle, if the best that can be had now is to be reached so."""
        by_handle = self._links.by_handle
        if not by_handle:
            return None
        for replica in rank:
            if replica in by_handle:
                return self._handle.reserve([replica, *rank])
            if self._has_room(replica, share):
                return None
        return None if self._free(rank, share) else self._handle.reserve([*by_handle, *rank])

    async def take(
        self, rank: Sequence[str], share: TenantShare | None = None, *, is_next: bool = False
    ) -> ReplicaConnection:
        """Hold a place; the caller releases it.

        Args:
            rank: ids of replicas, best first.
            share: of the call's tenant.
            is_next: whether the caller waited before and goes ahead of its tenant's that wait.

        Raises:
            PoolFullError: too many wait already.
            NoConnectionError: Serve's handle is to be asked for a place.
        """
        if is_next or not self._queue.has(share):
            found = self._free(rank, share)
            if found is not None:
                found.hold(share)
                return found
        if self._links.by_handle:
            raise _no_connection()
        waiter = WaitingCall(rank, share or NO_TENANT, asyncio.get_running_loop().create_future())
        self._queue.add(waiter, is_next=is_next)
        self._on_wait()
        try:
            return await waiter.place
        except asyncio.CancelledError:
            if waiter.place.cancelled():
                self._queue.remove(waiter)
            elif waiter.place.exception() is None:
                # It was given a place in the same turn of the loop.
                waiter.place.result().release(share)
            raise

    def _give(self) -> None:
        """Give places to those who wait: a tenant's in order, and tenants in turns."""
        for waiter in self._queue.firsts():
            while waiter is not None:
                found = self._free(waiter.rank, waiter.share)
                if found is None and not self._links.by_handle:
                    break
                self._queue.remove(waiter)
                self._queue.served(asyncio.get_running_loop().time())
                if found is None:
                    waiter.place.set_exception(_no_connection())
                else:
                    found.hold(waiter.share)
                    waiter.place.set_result(found)
                waiter = self._queue.first(waiter.share)

    def _free(self, rank: Sequence[str], share: TenantShare | None) -> ReplicaConnection | None:
        """Return the best connection with room: in rank, or else the one with the fewest calls."""
        opened = self._leaving.without(self._links.open)
        for replica in rank:
            if replica in opened and opened[replica].has_room(share):
                return opened[replica]
        others = [connection for connection in opened.values() if connection.has_room(share)]
        return min(others, key=lambda connection: connection.in_flight, default=None)

    def _has_room(self, replica: str, share: TenantShare | None) -> bool:
        connection = self._links.open.get(replica)
        return connection is not None and connection.has_room(share)


class ChannelReservation:
    """See :class:`~aloraserve.serving.replica_pool.Reservation`; a context that holds the place.

    Args:
        pool: that it is of.
        rank: ids of replicas, best first.
        share: of the call's tenant.
    """

    def __init__(self, pool: ChannelPool, rank: Sequence[str], share: TenantShare | None) -> None:
        self._pool = pool
        self._rank = rank
        self._share = share
        self._place: ReplicaConnection | None = None
        self._replies: ChannelReplies | None = None
        self._by_handle: AbstractAsyncContextManager[Reservation] | None = None
        self._handles: Reservation | None = None
        self._call: EngineCall | None = None

    async def __aenter__(self) -> Self:
        by_handle = self._pool.reserve_by_handle(self._rank, self._share)
        while by_handle is None:
            try:
                self._place = await self._pool.take(self._rank, self._share)
            except NoConnectionError:
                by_handle = self._pool.reserve_by_handle(self._rank, self._share)
            else:
                return self
        self._handles = await by_handle.__aenter__()
        self._by_handle = by_handle
        return self

    async def __aexit__(self, *error: Any) -> None:
        if self._by_handle is not None:
            await self._by_handle.__aexit__(*error)
        if self._replies is not None:
            # Before another call takes the place.
            self._replies.cancel()
        self._release()

    @property
    def replica(self) -> str:
        """See the contract."""
        if self._handles is not None:
            return self._handles.replica
        assert self._place is not None, "no place is held"
        return self._place.replica

    def send(self, call: EngineCall) -> Replies:
        """See the contract."""
        if self._handles is not None:
            return self._handles.send(call)
        assert self._place is not None, "no place is held"
        self._call, self._replies = call, ChannelReplies(self._move)
        self._place.call(call, self._replies)
        return self._replies

    async def _move(self) -> None:
        """Send a call that was refused for want of room to another replica, or to the same when it has room."""
        assert self._call is not None
        assert self._replies is not None
        self._release()
        self._place = await self._pool.take(self._rank, self._share, is_next=True)
        self._place.call(self._call, self._replies)

    def _release(self) -> None:
        place, self._place = self._place, None
        if place is not None:
            place.release(self._share)


def _no_connection() -> NoConnectionError:
    return NoConnectionError("no connection has room, and Serve's handle reaches a replica that none does")
