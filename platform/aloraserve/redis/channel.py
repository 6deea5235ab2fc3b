"""Scripts on one server over one connection, any number under way at once.

redis-py lends a connection to each command and reads its reply under timers of its own, which is most of what a lookup
takes (ADR 0006). A server answers a connection's commands in their order, so that here they go out as they come, in one
write each, and a reply goes to whoever waits first. Opening the connection (TLS, ACL, protocol, whom Sentinels name)
stays redis-py's, packing and parsing hiredis's.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from aloraserve.redis.scripts import ScriptCall

_MORE = object()
_CLOSED = "the connection was closed"
_ERRORS: dict[str, type[RedisError]] = {
    "LOADING": BusyLoadingError,
    "MASTERDOWN": MasterDownError,
    "NOAUTH": AuthenticationError,
    "NOPERM": NoPermissionError,
    "NOSCRIPT": NoScriptError,
    "OOM": OutOfMemoryError,
    "READONLY": ReadOnlyError,
}
_ENDS = (BusyLoadingError, MasterDownError, AuthenticationError, ReadOnlyError)


@dataclass(slots=True)
class _Sent:
    """Commands that were sent together.

    Args:
        count: how many.
        deadline: when who waits for them gives up, on the loop's clock.
        done: gets their replies; cancelled where nobody waits any more.
        replies: those that are there.
    """

    count: int
    deadline: float
    done: asyncio.Future[list[Any]]
    replies: list[Any] = field(default_factory=list)


class _Line(asyncio.Protocol):
    """One open connection, whose replies come here from now on.

    Args:
        connection: connected; its server owes it nothing.
        patience_s: a reply that is later than its deadline by that ends the connection: a server that is slow
            cannot be distinguished from one that is gone.
        on_end: called for each ``send`` when nothing of it is under way any more.
    """

    def __init__(self, connection: AbstractConnection, patience_s: float, on_end: Callable[[], None]) -> None:
        # Behind redis-py's own way of sending a caller waits until the socket took it all, and one that gives up
        # leaves half a command to the others; here what waits is bounded by the calls under way. Its way of reading
        # takes two turns of the loop a reply, and timers.
        writer, reader = connection._writer, connection._reader
        if writer is None or reader is None or reader.at_eof() or writer.transport.is_closing():
            # The end of a stream is reported once.
            raise RedisConnectionError(_CLOSED)
        self._connection = connection
        self._transport: asyncio.WriteTransport = writer.transport
        self._patience_s = patience_s
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._parser = hiredis.Reader(replyError=_error, protocolError=InvalidResponse, notEnoughData=_MORE)
        self._sent: deque[_Sent] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf
        self.ended: asyncio.Task[None] | None = None
        self._transport.set_protocol(self)

    @property
    def is_open(self) -> bool:
        """Whether anything can be sent. The transport knows of an end before it reports it."""
        return self.ended is None and not self._transport.is_closing()

    def send(self, commands: Sequence[tuple[Any, ...]], deadline: float) -> asyncio.Future[list[Any]]:
        """Send ``commands``; their replies come, or a TimeoutError, a RedisError or an OSError.

        Raises:
            RedisConnectionError: the line is closed; nothing was sent.
        """
        if not self.is_open:
            raise RedisConnectionError(_CLOSED)
        packed = b"".join([hiredis.pack_command(command) for command in commands])
        if deadline < self._due:
            self._watch(deadline)
        self._transport.write(packed)
        sent = _Sent(len(commands), deadline, self._loop.create_future())
        self._sent.append(sent)
        return sent.done

    def close(self, error: Exception) -> None:
        """End all that is under way with ``error``, and the connection."""
        if self.ended is not None:
            return
        if self._sent:
            # What was not sent yet is reported as failed, so it must not be done later.
            self._transport.abort()
        self.ended = self._loop.create_task(self._connection.disconnect(nowait=True))
        while self._sent:
            sent = self._sent.popleft()
            self._on_end()
            if not sent.done.done():
                sent.done.set_exception(error)
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """See :class:`asyncio.Protocol`."""
        self._parser.feed(data)
        try:
            while self.is_open and (reply := self._parser.gets()) is not _MORE:
                if not isinstance(reply, hiredis.PushNotification):
                    self._take(reply)
        except InvalidResponse as error:
            self.close(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """See :class:`asyncio.Protocol`."""
        self.close(exc or RedisConnectionError(_CLOSED))

    def _take(self, reply: Any) -> None:
        if not self._sent:
            self.close(InvalidResponse("a reply that nobody asked for"))
            return
        sent = self._sent[0]
        sent.replies.append(reply)
        if len(sent.replies) == sent.count:
            self._sent.popleft()
            self._on_end()
            if not sent.done.done():
                sent.done.set_result(sent.replies)
        if isinstance(reply, _ENDS):
            # It is not a primary now. Sentinels know which server is, or the name that a new connection is opened to.
            self.close(RedisConnectionError(f"the server does not serve now: {reply}"))

    def _watch(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # uvloop's handle does not always know when it is due.
        self._timer, self._due = self._loop.call_at(when, self._expire), when

    def _expire(self) -> None:
        """End the waits that are over: one timer for all calls, set for the first of them."""
        self._timer, self._due = None, math.inf
        now = self._loop.time()
        if not self._sent:
            return
        end = self._sent[0].deadline + self._patience_s
        if end <= now:
            self.close(TimeoutError())
            return
        waiting = [sent for sent in self._sent if not sent.done.done()]
        for sent in waiting:
            if sent.deadline <= now:
                sent.done.set_exception(TimeoutError())
        self._watch(min([end, *(sent.deadline for sent in waiting if sent.deadline > now)]))


def _error(message: str) -> RedisError:
    code, _, rest = message.partition(" ")
    named = _ERRORS.get(code)
    return named(rest) if named else ResponseError(message)


class RedisChannel:
    """See :class:`~aloraserve.redis.scripts.ScriptRunner`. Connects when first used, and again after a loss.

    Args:
        pool: makes the connections.
        timeout_s: the longest that :meth:`run` takes.
        max_calls: how many may be under way, those that nobody waits for any more included; more wait, within
            ``timeout_s``.
    """

    def __init__(self, pool: ConnectionPool, *, timeout_s: float, max_calls: int) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._admitted = asyncio.Semaphore(max_calls)
        self._is_closed = False
        self._line: _Line | None = None
        self._opening: asyncio.Task[_Line] | None = None

    async def run(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """See the contract; the scripts run in their order, others' perhaps between them."""
        if not calls:
            return []
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        commands = [("EVALSHA", call.script.digest, len(call.keys), *call.keys, *call.arguments) for call in calls]
        replies = await self._exchange(commands, deadline)
        for index, reply in enumerate(replies):
            if isinstance(reply, NoScriptError):
                call = calls[index]
                command = ("EVAL", call.script.source, len(call.keys), *call.keys, *call.arguments)
                [replies[index]] = await self._exchange([command], deadline)
        for reply in replies:
            if isinstance(reply, RedisError):
                raise reply
        return replies

    async def close(self) -> None:
        """See the contract."""
        self._is_closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._line is not None:
            self._line.close(RedisConnectionError(_CLOSED))
            if self._line.ended is not None:
                await asyncio.gather(self._line.ended, return_exceptions=True)

    async def _exchange(self, commands: Sequence[tuple[Any, ...]], deadline: float) -> list[Any]:
        if self._admitted.locked():
            async with asyncio.timeout_at(deadline):
                await self._admitted.acquire()
        else:
            await self._admitted.acquire()
        try:
            line = self._line
            if line is None or not line.is_open:
                line = await self._opened(deadline)
            replies = line.send(commands, deadline)
        except BaseException:
            self._admitted.release()
            raise
        return await replies

    async def _opened(self, deadline: float) -> _Line:
        """Return the line that somebody is opening; who is in a hurry leaves it to the others."""
        if self._is_closed:
            raise RedisConnectionError(_CLOSED)
        opening = self._opening
        if opening is None:
            opening = self._opening = asyncio.create_task(self._open())
            opening.add_done_callback(self._end_opening)
        async with asyncio.timeout_at(deadline):
            await asyncio.wait({opening})
        if opening.cancelled():
            raise RedisConnectionError(_CLOSED)
        return opening.result()

    async def _open(self) -> _Line:
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(self._timeout_s):
                await connection.connect()  # type: ignore[no-untyped-call]
            self._line = _Line(connection, self._timeout_s, self._admitted.release)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return self._line

    def _end_opening(self, opening: asyncio.Task[_Line]) -> None:
        self._opening = None
        if not opening.cancelled():
            # Marks it as seen: whoever waited may be gone.
            opening.exception()
