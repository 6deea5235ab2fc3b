"""Engine replicas as the pool that serving sends its calls to, over one connection to each."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Self

from aloraserve.routing.receipts import Outcome
from aloraserve.serving.engine_messages import EngineCall, engine_outcome
from aloraserve.serving.replica_pool import ReplicaPool, Replies, Reservation
from aloraserve_services.channel.connection import CallFailedError, ChannelLostError, ReplicaConnection
from aloraserve_services.channel.replies import ChannelReplies
from aloraserve_services.gateway.replica_links import ReplicaLinks


class PoolFullError(Exception):
    """Raised when too many calls wait for a place already."""


class NoConnectionError(ChannelLostError):
    """Raised for those that wait for a place when one is to be had by Serve's handle alone."""


@dataclass(eq=False, slots=True)
class _Waiter:
    rank: Sequence[str]
    place: asyncio.Future[ReplicaConnection]


class ChannelPool:
    """See :class:`~aloraserve.serving.replica_pool.ReplicaPool`.

    A place is reserved without asking the replica: from its capacity and the calls that this gateway has there. One
    that other gateways have filled refuses the call, which then moves on and is the first that waits.

    Args:
        links: connections to the replicas.
        handle: the pool over Serve's handle, for replicas that a connection does not reach.
        max_queued: calls that may wait for a place.
    """

    def __init__(self, links: ReplicaLinks, handle: ReplicaPool, *, max_queued: int) -> None:
        self._links = links
        self._handle = handle
        self._max_queued = max_queued
        self._waiting: deque[_Waiter] = deque()
        links.notify(self._give)

    @property
    def waiting(self) -> int:
        """Calls that wait for a place."""
        return len(self._waiting)

    def reserve(self, rank: Sequence[str]) -> ChannelReservation:
        """See the contract."""
        return ChannelReservation(self, rank)

    def outcome_of(self, error: Exception) -> Outcome:
        """See the contract."""
        if isinstance(error, ChannelLostError):
            return Outcome.LOST
        if isinstance(error, PoolFullError):
            return Outcome.OVERLOADED
        if isinstance(error, CallFailedError):
            return engine_outcome(error.cause) if error.is_lost else Outcome.FAILED
        return self._handle.outcome_of(error)

    def reserve_by_handle(self, rank: Sequence[str]) -> AbstractAsyncContextManager[Reservation] | None:
        """Return a reservation through Serve's handle, if the best that can be had now is to be reached so."""
        by_handle = self._links.by_handle
        if not by_handle:
            return None
        for replica in rank:
            if replica in by_handle:
                return self._handle.reserve([replica, *rank])
            if self._has_room(replica):
                return None
        return None if self._free(rank) else self._handle.reserve([*by_handle, *rank])

    async def take(self, rank: Sequence[str], *, is_next: bool = False) -> ReplicaConnection:
        """Hold a place; the caller releases it.

        Args:
            rank: ids of replicas, best first.
            is_next: whether the caller waited before and goes ahead of those that wait.

        Raises:
            PoolFullError: too many wait already.
            NoConnectionError: Serve's handle is to be asked for a place.
        """
        if not self._waiting or is_next:
            found = self._free(rank)
            if found is not None:
                found.hold()
                return found
        if self._links.by_handle:
            raise _no_connection()
        return await self._wait(_Waiter(rank, asyncio.get_running_loop().create_future()), is_next)

    async def _wait(self, waiter: _Waiter, is_next: bool) -> ReplicaConnection:
        if is_next:
            self._waiting.appendleft(waiter)
        elif len(self._waiting) < self._max_queued:
            self._waiting.append(waiter)
        else:
            raise PoolFullError(f"{self._max_queued} calls wait already")
        try:
            return await waiter.place
        except asyncio.CancelledError:
            if waiter.place.cancelled():
                with contextlib.suppress(ValueError):
                    self._waiting.remove(waiter)
            elif waiter.place.exception() is None:
                # It was given a place in the same turn of the loop.
                waiter.place.result().release()
            raise

    def _give(self) -> None:
        """Give places to those who wait, in order."""
        while self._waiting:
            if self._waiting[0].place.cancelled():
                self._waiting.popleft()
                continue
            found = self._free(self._waiting[0].rank)
            if found is None and not self._links.by_handle:
                return
            waiter = self._waiting.popleft()
            if found is None:
                waiter.place.set_exception(_no_connection())
            else:
                found.hold()
                waiter.place.set_result(found)

    def _free(self, rank: Sequence[str]) -> ReplicaConnection | None:
        """Return the best connection with room: in rank, or else the one with the fewest calls."""
        opened = self._links.open
        for replica in rank:
            if self._has_room(replica):
                return opened[replica]
        others = [connection for connection in opened.values() if connection.has_room]
        return min(others, key=lambda connection: connection.in_flight, default=None)

    def _has_room(self, replica: str) -> bool:
        connection = self._links.open.get(replica)
        return connection is not None and connection.has_room


class ChannelReservation:
    """See :class:`~aloraserve.serving.replica_pool.Reservation`; a context that holds the place.

    Args:
        pool: that it is of.
        rank: ids of replicas, best first.
    """

    def __init__(self, pool: ChannelPool, rank: Sequence[str]) -> None:
        self._pool = pool
        self._rank = rank
        self._place: ReplicaConnection | None = None
        self._replies: ChannelReplies | None = None
        self._by_handle: AbstractAsyncContextManager[Reservation] | None = None
        self._handles: Reservation | None = None
        self._call: EngineCall | None = None

    async def __aenter__(self) -> Self:
        by_handle = self._pool.reserve_by_handle(self._rank)
        while by_handle is None:
            try:
                self._place = await self._pool.take(self._rank)
            except NoConnectionError:
                by_handle = self._pool.reserve_by_handle(self._rank)
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
        self._place = await self._pool.take(self._rank, is_next=True)
        self._place.call(self._call, self._replies)

    def _release(self) -> None:
        place, self._place = self._place, None
        if place is not None:
            place.release()


def _no_connection() -> NoConnectionError:
    return NoConnectionError("no connection has room, and Serve's handle reaches a replica that none does")
