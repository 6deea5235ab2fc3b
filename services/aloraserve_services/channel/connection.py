"""The gateway's end of a connection: it proves who it is, sends calls and hands out what comes back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any

from aloraserve.routing.fair_share import NO_TENANT, TenantShare
from aloraserve.serving.engine_messages import EngineCall
from aloraserve_services.channel.codec import call_message, engine_reply
from aloraserve_services.channel.credentials import client_context, is_proof, new_nonce, proof
from aloraserve_services.channel.endpoint import ChannelVersionError, Endpoint
from aloraserve_services.channel.frames import FrameError, FramePeer
from aloraserve_services.channel.messages import (
    VERSION,
    Cancel,
    Challenge,
    ChunkMessage,
    Credit,
    Draining,
    End,
    Failed,
    Full,
    Hello,
    Hottest,
    Prefill,
    Prefilled,
    Prefixes,
    Refusal,
    Refused,
    Room,
    Token,
    Unavailable,
    Welcome,
    decode_to_gateway,
)
from aloraserve_services.channel.places import Places
from aloraserve_services.channel.replies import CREDITS, ChannelReplies

CONNECT_S = 5.0
_REPLY = (Token, ChunkMessage, Refusal, Unavailable)


class ChannelLostError(Exception):
    """Raised when a connection is closed, or cannot be opened: for all calls on it."""


class CallFailedError(Exception):
    """Raised when a call ended with an error in the replica.

    Args:
        cause: the error's name.
        is_lost: the engine is dead.
    """

    def __init__(self, cause: str, *, is_lost: bool) -> None:
        super().__init__(f"the call failed in the replica: {cause}")
        self.cause = cause
        self.is_lost = is_lost


class ReplicaConnection(FramePeer):
    """One connection to one replica, for any number of calls. :func:`connect` makes it.

    Args:
        endpoint: of the replica.
        on_room: called when there may be a place that was not there before.

    Attributes:
        replica: its id.
        opened: done when calls may be sent.
        closed: done with the cause when the connection is closed.
    """

    def __init__(self, endpoint: Endpoint, on_room: Callable[[], None]) -> None:
        super().__init__(decode_to_gateway)
        self.replica = endpoint.replica
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self.closed: asyncio.Future[str] = self._loop.create_future()
        self._secret = endpoint.secret
        self._on_room = on_room
        self._nonce = new_nonce()
        self._replica_nonce = b""
        self._places = Places(0)
        self._full_for: set[str] = set()
        self._is_retired = False
        self._number = 0
        self._calls: dict[int, ChannelReplies] = {}
        self._asked: dict[int, asyncio.Future[Any]] = {}

    @property
    def in_flight(self) -> int:
        """Places that are held here."""
        return self._places.taken

    def has_room(self, share: TenantShare | None = None) -> bool:
        """Return whether a call of a tenant may be sent, as far as this gateway knows."""
        if not self.is_open or self._is_retired or (share or NO_TENANT).tenant in self._full_for:
            return False
        return self._places.has_room(share)

    def hold(self, share: TenantShare | None = None) -> None:
        """Take a place for a call of a tenant."""
        self._places.take(share)

    def release(self, share: TenantShare | None = None) -> None:
        """Give a place back, with the share that it was taken with."""
        self._places.leave(share)
        self._close_if_retired()
        self._on_room()

    def retire(self) -> None:
        """Take no further calls, and close once those that run are over."""
        self._is_retired = True
        self._close_if_retired()

    def call(self, call: EngineCall, replies: ChannelReplies) -> None:
        """Send a call whose place is held.

        Raises:
            FrameError: the call is longer than a frame may be.
        """
        if not self.is_open:
            replies.end(ChannelLostError("the connection was closed before the call was sent"))
            return
        self._number = number = self._number + 1
        self.send(call_message(number, call, CREDITS))
        self._calls[number] = replies
        replies.attach(self, number, call.share or NO_TENANT)

    async def ask(self, question: type[Hottest | Prefill], *content: Any) -> Any:
        """Return the answer to a question that one replica has for another.

        Args:
            question: kind of it.
            content: the message's fields after its number.

        Raises:
            FrameError: it is longer than a frame may be.
            ChannelLostError: the connection is closed, or was before the answer came.
            CallFailedError: the replica could not answer.
        """
        if not self.is_open:
            raise ChannelLostError("the connection was closed before the question was sent")
        self._number = number = self._number + 1
        self.send(question(number, *content))
        self._asked[number] = answer = self._loop.create_future()
        try:
            return await answer
        finally:
            del self._asked[number]

    def grant(self, number: int, chunks: int) -> None:
        """Allow the replica to send more of a call."""
        if number in self._calls:
            self.send(Credit(number, chunks))

    def cancel(self, number: int) -> None:
        """End a call in the replica."""
        if self._calls.pop(number, None) is not None:
            self.send(Cancel(number))

    def received(self, messages: Sequence[Any]) -> None:
        """See the base."""
        calls = self._calls
        for message in messages:
            if isinstance(message, _REPLY):
                # A call that was cancelled may have replies on the way.
                if (replies := calls.get(message.number)) is not None:
                    replies.put(engine_reply(message))
            elif isinstance(message, End):
                self._end(message.number, StopAsyncIteration())
            else:
                self._signalled(message)

    def ended(self, cause: str) -> None:
        """See the base."""
        error = ChannelLostError(cause)
        if not self.opened.done():
            self.opened.set_exception(error)
        calls, self._calls = self._calls, {}
        for replies in calls.values():
            replies.end(ChannelLostError(cause))
        for number in self._asked:
            self._answered(number, ChannelLostError(cause))
        self.closed.set_result(cause)

    def _signalled(self, message: Any) -> None:
        if isinstance(message, Failed):
            error = CallFailedError(message.cause, is_lost=message.is_lost)
            self._end(message.number, error)
            self._answered(message.number, error)
        elif isinstance(message, Prefixes | Prefilled):
            self._answered(message.number, message.prefixes)
        elif isinstance(message, Full):
            if (replies := self._calls.pop(message.number, None)) is not None:
                self._full_for.add(replies.tenant)
                replies.refuse()
        elif isinstance(message, Room):
            self._full_for.clear()
            self._on_room()
        elif isinstance(message, Draining):
            self._is_retired = True
        elif not self.opened.done():
            self._greeted(message)
        else:
            raise FrameError(f"{type(message).__name__} is out of place")

    def _greeted(self, message: Any) -> None:
        if isinstance(message, Challenge):
            if message.version != VERSION:
                self.opened.set_exception(ChannelVersionError(message.version))
                return
            self._replica_nonce = message.nonce
            self.send(Hello(VERSION, self._nonce, proof(self._secret, "gateway", message.nonce, self._nonce)))
        elif isinstance(message, Welcome) and self._is_replica(message.proof):
            self._places.capacity = message.capacity
            self.opened.set_result(None)
            self.watch()
        else:
            reason = message.reason if isinstance(message, Refused) else "the other end does not have its secret"
            raise FrameError(reason[:200])

    def _is_replica(self, given: bytes) -> bool:
        return bool(self._replica_nonce) and is_proof(given, self._secret, "replica", self._replica_nonce, self._nonce)

    def _end(self, number: int, outcome: Exception) -> None:
        if (replies := self._calls.pop(number, None)) is not None:
            replies.end(outcome)

    def _answered(self, number: int, outcome: Any) -> None:
        answer = self._asked.get(number)
        if answer is None or answer.done():
            return
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)

    def _close_if_retired(self) -> None:
        if self._is_retired and not self.in_flight:
            self.close("the replica is not used any more")


async def connect(endpoint: Endpoint, on_room: Callable[[], None]) -> ReplicaConnection:
    """Return an open connection: over the Unix socket if the replica is on this machine, else over TLS.

    Args:
        endpoint: of the replica.
        on_room: see :class:`ReplicaConnection`.

    Raises:
        ChannelVersionError: the replica speaks another version.
        ChannelLostError: it cannot be reached, or one of the two ends does not have the secret.
    """
    connection = ReplicaConnection(endpoint, on_room)
    try:
        async with asyncio.timeout(CONNECT_S):
            await _reach(connection, endpoint)
            await connection.opened
    except (OSError, TimeoutError) as error:
        raise ChannelLostError(f"it cannot be reached: {type(error).__name__}") from error
    finally:
        if not connection.opened.done():
            connection.opened.cancel()
        if connection.opened.cancelled() or connection.opened.exception() is not None:
            connection.close("it was not opened")
    return connection


async def _reach(connection: ReplicaConnection, endpoint: Endpoint) -> None:
    loop = asyncio.get_running_loop()
    if os.access(endpoint.socket, os.W_OK):
        await loop.create_unix_connection(lambda: connection, endpoint.socket)
    elif endpoint.host:
        await loop.create_connection(
            lambda: connection, endpoint.host, endpoint.port, ssl=client_context(endpoint.certificate)
        )
    else:
        raise ChannelLostError("it is on another machine and takes calls on its own alone (setting channel_host)")
