"""Replies to one call, as the gateway reads them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

from aloraserve.routing.fair_share import TenantShare
from aloraserve.serving.engine_messages import EngineReply

if TYPE_CHECKING:
    from aloraserve_services.channel.connection import ReplicaConnection

CREDITS = 64
"""Replies of a call that may lie here unread: what a slow reader holds up is its own call, at the engine."""
_GRANTED_AT = CREDITS // 2


class ChannelReplies:
    """See :class:`~aloraserve.serving.replica_pool.Replies`: an iterator that the connection fills.

    Args:
        on_full: called when the replica has no place for the call; it sends the call to another one.

    Attributes:
        tenant: whose call it is.
    """

    __slots__ = (
        "_connection",
        "_is_refused",
        "_number",
        "_on_full",
        "_outcome",
        "_read",
        "_ready",
        "_waiter",
        "tenant",
    )

    def __init__(self, on_full: Callable[[], Awaitable[None]]) -> None:
        self._on_full = on_full
        self.tenant = ""
        self._connection: ReplicaConnection | None = None
        self._number = 0
        self._ready: deque[EngineReply] = deque()
        self._read = 0
        self._is_refused = False
        self._outcome: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the next reply, or the end, can be had without waiting."""
        return bool(self._ready) or (self._outcome is not None and not self._is_refused)

    def __aiter__(self) -> AsyncIterator[EngineReply]:
        return self

    async def __anext__(self) -> EngineReply:
        """Return the next reply.

        Raises:
            ChannelLostError: the connection is closed.
            CallFailedError: the call failed in the replica.
        """
        while not self._ready:
            if self._is_refused:
                self._is_refused = False
                await self._on_full()
            elif self._outcome is not None:
                raise self._outcome
            else:
                await self._wait()
        self._read += 1
        if self._read == _GRANTED_AT:
            self._read = 0
            if self._connection is not None:
                self._connection.grant(self._number, _GRANTED_AT)
        return self._ready.popleft()

    def cancel(self) -> None:
        """End the call in the replica, whether its replies were read or not."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.cancel(self._number)

    def attach(self, connection: ReplicaConnection, number: int, share: TenantShare) -> None:
        """Note who answers, and whose call it is."""
        self._connection, self._number, self.tenant = connection, number, share.tenant

    def put(self, reply: EngineReply) -> None:
        """Add a reply."""
        self._ready.append(reply)
        if self._waiter is not None:
            self._wake()

    def refuse(self) -> None:
        """Note that the replica is full; it has done nothing for the call."""
        self._connection, self._is_refused = None, True
        self._wake()

    def end(self, outcome: Exception) -> None:
        """Note that nothing follows: :class:`StopAsyncIteration`, or the error that ended the call."""
        self._connection, self._outcome = None, outcome
        self._wake()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
