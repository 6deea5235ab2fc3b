"""One open connection with any number of commands under way.

A server answers a connection's commands in their order, so that here they go out as they come, in one write each, and a
reply goes to whoever waits first. hiredis packs and parses.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse

from aloraserve.redis.replies import error_of, is_unfit

CLOSED = "the connection was closed"
Command = tuple[str | bytes | int, ...]
_MORE = object()


@dataclass(slots=True)
class _Sent:
    """Commands that were sent together.

    Args:
        count: how many.
        deadline: when who waits for them gives up, on the loop's clock.
        done: gets their replies; cancelled where nobody waits any more.
        on_end: called when nothing of them is under way any more.
        replies: those that are there.
    """

    count: int
    deadline: float
    done: asyncio.Future[list[Any]]
    on_end: Callable[[], None]
    replies: list[Any] = field(default_factory=list)


class Line(asyncio.Protocol):
    """See the module.

    Args:
        patience_s: a reply that is later than its deadline by that ends the connection: a server that is slow
            cannot be distinguished from one that is gone.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._loop = asyncio.get_running_loop()
        self._parser = hiredis.Reader(replyError=error_of, protocolError=InvalidResponse, notEnoughData=_MORE)
        self._transport: asyncio.Transport | None = None
        self._sent: deque[_Sent] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf
        self._is_ended = False
        self.lost = asyncio.Event()

    @property
    def is_open(self) -> bool:
        """Whether anything can be sent. The transport knows of an end before it reports it."""
        return not self._is_ended and self._transport is not None and not self._transport.is_closing()

    @property
    def is_idle(self) -> bool:
        """Whether the server owes no reply."""
        return not self._sent

    def send(
        self, commands: Sequence[Command], deadline: float, on_end: Callable[[], None] = lambda: None
    ) -> asyncio.Future[list[Any]]:
        """Send ``commands``; their replies come, or a TimeoutError, a RedisError or an OSError.

        Args:
            commands: to be sent in one write.
            deadline: when the caller gives up, on the loop's clock.
            on_end: called once nothing of them is under way any more, even if the caller gave up.

        Raises:
            RedisConnectionError: the line is closed; nothing was sent.
        """
        if not self.is_open or self._transport is None:
            raise RedisConnectionError(CLOSED)
        packed = b"".join([hiredis.pack_command(cast(Any, command)) for command in commands])
        if deadline < self._due:
            self._watch(deadline)
        # Whoever sends does not wait until the socket took it all: what waits here is bounded by the calls under way.
        self._transport.write(packed)
        sent = _Sent(len(commands), deadline, self._loop.create_future(), on_end)
        self._sent.append(sent)
        return sent.done

    def close(self, error: Exception) -> None:
        """End all that is under way with ``error``, and the connection."""
        if self._is_ended:
            return
        self._is_ended = True
        if self._transport is not None:
            # What was not sent yet is reported as failed, so it must not be done later.
            self._transport.abort() if self._sent else self._transport.close()
        while self._sent:
            sent = self._sent.popleft()
            sent.on_end()
            if not sent.done.done():
                sent.done.set_exception(error)
        if self._timer is not None:
            self._timer.cancel()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See :class:`asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See :class:`asyncio.Protocol`."""
        self._parser.feed(data)
        try:
            while self.is_open and (reply := self._parser.gets()) is not _MORE:
                self._take(reply)
        except InvalidResponse as error:
            self.close(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """See :class:`asyncio.Protocol`."""
        self.close(exc or RedisConnectionError(CLOSED))
        self.lost.set()

    def _take(self, reply: Any) -> None:
        if not self._sent:
            self.close(InvalidResponse("a reply that nobody asked for"))
            return
        sent = self._sent[0]
        sent.replies.append(reply)
        if len(sent.replies) == sent.count:
            self._sent.popleft()
            sent.on_end()
            if not sent.done.done():
                sent.done.set_result(sent.replies)
        if is_unfit(reply):
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
