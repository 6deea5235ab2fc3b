"""The replica's end of a connection: lets a gateway in that has the secret, and runs its calls.

Another replica comes in the same way, with questions in the place of calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from aloraserve_services.channel.admission import Admission
from aloraserve_services.channel.codec import engine_call
from aloraserve_services.channel.credentials import NONCE_BYTES, is_proof, new_nonce, proof
from aloraserve_services.channel.frames import FrameError, FramePeer
from aloraserve_services.channel.messages import (
    MAX_FRAME_BYTES,
    MAX_GREETING_BYTES,
    VERSION,
    CallMessage,
    Cancel,
    Challenge,
    Credit,
    Draining,
    Full,
    Hello,
    Hottest,
    Prefill,
    Refused,
    Room,
    Welcome,
    decode_to_replica,
)
from aloraserve_services.channel.served_call import Generate, ServedCall
from aloraserve_services.channel.served_peer import ServedPeer, WarmReplica

GREETING_S = 5.0
"""How long a connection may take to prove who it is."""

log = structlog.get_logger(__name__)


class ServedGateway(FramePeer):
    """See the module's docstring.

    Args:
        secret: of the replica.
        admission: places for calls.
        generate: answers a call.
        on_begin: called with this when the connection is open; over TLS not all that are accepted come that far.
        on_end: called with this when it is closed.
        warm: answers questions of other replicas.

    Attributes:
        is_known: whether the gateway has proved that it has the secret.
    """

    def __init__(
        self,
        secret: bytes,
        admission: Admission,
        generate: Generate,
        on_begin: Callable[[ServedGateway], None],
        on_end: Callable[[ServedGateway], None],
        warm: WarmReplica | None = None,
    ) -> None:
        super().__init__(decode_to_replica, MAX_GREETING_BYTES)
        self.is_known = False
        self._on_begin = on_begin
        self._secret = secret
        self._admission = admission
        self._generate = generate
        self._on_end = on_end
        self._nonce = new_nonce()
        self._calls: dict[int, ServedCall] = {}
        self._ending: dict[int, ServedCall] = {}
        self._peer = ServedPeer(warm, self.send)
        self._greeting: asyncio.TimerHandle

    def connection_made(self, transport: Any) -> None:
        """See asyncio."""
        super().connection_made(transport)
        self._greeting = self._loop.call_later(GREETING_S, self._is_late)
        self._on_begin(self)
        self.send(Challenge(VERSION, self._nonce))

    def received(self, messages: Sequence[Any]) -> None:
        """See the base."""
        for message in messages:
            if not self.is_known:
                self._greeted(message)
            elif isinstance(message, Credit):
                if (call := self._calls.get(message.number)) is not None:
                    call.grant(message.chunks)
            elif isinstance(message, CallMessage):
                self._begin(message)
            elif isinstance(message, Cancel):
                self._cancel(message.number)
            elif isinstance(message, Hottest | Prefill):
                self._peer.begin(message)
            else:
                raise FrameError(f"{type(message).__name__} is out of place")

    def ended(self, cause: str) -> None:
        """See the base; calls whose gateway is gone are of no use."""
        self._greeting.cancel()
        self._admission.forget(self._on_room)
        for number in list(self._calls):
            self._cancel(number)
        self._peer.cancel()
        self._on_end(self)
        if self.is_known:
            log.info("channel_closed", cause=cause)
        else:
            log.warning("channel_not_opened", cause=cause)

    def drain(self) -> None:
        """Tell the gateway to send no further calls."""
        if self.is_known:
            self.send(Draining())

    def _greeted(self, message: Any) -> None:
        if not isinstance(message, Hello):
            raise FrameError(f"{type(message).__name__} before Hello")
        if message.version != VERSION:
            self._refuse(f"the gateway speaks version {message.version}; this replica speaks {VERSION}")
        elif len(message.nonce) != NONCE_BYTES or not is_proof(
            message.proof, self._secret, "gateway", self._nonce, message.nonce
        ):
            self._refuse("the gateway does not have this replica's secret")
        else:
            self._greeting.cancel()
            self.is_known = True
            self._max_bytes = MAX_FRAME_BYTES
            own = proof(self._secret, "replica", self._nonce, message.nonce)
            self.send(Welcome(own, self._admission.capacity))
            self.watch()

    def _refuse(self, reason: str) -> None:
        self.send(Refused(reason))
        self.close(reason)

    def _is_late(self) -> None:
        self.abort(f"it did not prove who it is within {GREETING_S:g} s")

    def _begin(self, message: CallMessage) -> None:
        number = message.number
        if number in self._calls:
            raise FrameError(f"call {number} runs already")
        call = engine_call(message)
        if not self._admission.enter(self._on_room, call.share):
            self.send(Full(number))
            return
        self._calls[number] = ServedCall(number, call, message.credits, self._generate, self.send, self._call_ended)

    def _cancel(self, number: int) -> None:
        """End a call; its place is free at once, because its gateway counts it as free."""
        call = self._calls.pop(number, None)
        if call is not None:
            self._admission.leave(call.share)
            self._ending[number] = call
            call.cancel()

    def _call_ended(self, number: int) -> None:
        if (call := self._calls.pop(number, None)) is not None:
            self._admission.leave(call.share)
        self._ending.pop(number, None)

    def _on_room(self) -> None:
        self.send(Room())
