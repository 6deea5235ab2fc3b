"""One gRPC call, as the method that answers it sees it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from aloraserve.serving.request import Origin
from aloraserve.serving.session import SESSION_HEADER, session_of
from aloraserve.tenants import UNTENANTED
from aloraserve.wire.ignored import IGNORED_HEADER, ignored_header
from aloraserve_services.gateway.body_budget import HeldBytes
from aloraserve_services.gateway.idempotency import KEY_HEADER
from aloraserve_services.gateway.kept_answers import REPLAYED_HEADER
from aloraserve_services.gateway.request_context import RequestContext

REQUEST_ID = "x-request-id"
MESSAGE_EVERY_S = 0.005
"""Messages of one stream leave that far apart: each costs gRPC some wake-ups of threads, whatever is in it. The first
one, and one after a pause, leaves at once."""
MAX_JOINED_BYTES = 64 << 10


class GrpcCall:
    """See the module's docstring.

    Args:
        context: gRPC's own of the call.
        metadata: of the request, its text values by name.
        request: its id, when it came, and its trace.

    Attributes:
        caller: whose call it is.
        task: that answers it.
        ignored: names of the request's fields that were passed over.
        limits: of the caller, as HTTP's headers have them.
        held: counts its message's bytes; whoever has read the message releases them.
        is_replayed: whether the answer is one that was given before, under the same idempotency key.
        unread_since: when a message was written that the client has not taken yet, on the loop's clock; None if none.
    """

    def __init__(self, context: Any, metadata: Mapping[str, str], request: RequestContext) -> None:
        self.caller = UNTENANTED
        self.request = request
        self.task = asyncio.current_task()
        self.ignored: Sequence[str] = ()
        self.limits: Mapping[str, str] = {}
        self.is_replayed = False
        self.unread_since: float | None = None
        self.held: HeldBytes
        self._context = context
        self._metadata = metadata
        self._loop = asyncio.get_running_loop()
        self._sent_at = 0.0
        self._joined = bytearray()
        self._sending: asyncio.Future[None] | None = None

    @property
    def origin(self) -> Origin:
        """Where the call comes from."""
        remaining = self._context.time_remaining()
        return Origin(
            self.request.request_id,
            self.caller,
            self.request.arrived_at,
            session=session_of(self._metadata.get(SESSION_HEADER), self.caller),
            traceparent=self.request.traceparent,
            deadline=None if remaining is None else time.perf_counter() + remaining,
        )

    @property
    def idempotency_key(self) -> str | None:
        """Under which the call may be sent again, None if it has none."""
        return self._metadata.get(KEY_HEADER)

    @property
    def trailers(self) -> tuple[tuple[str, str], ...]:
        """What is sent after the answer beside its status."""
        ignored = {IGNORED_HEADER: ignored_header(self.ignored)} if self.ignored else {}
        replayed = {REPLAYED_HEADER: "true"} if self.is_replayed else {}
        return tuple({REQUEST_ID: self.request.request_id, **ignored, **replayed, **self.limits}.items())

    async def write(self, message: bytes) -> None:
        """Send a message; returns once the client, or the network on the way, has room for the next."""
        self._sent_at = self.unread_since = self._loop.time()
        await self._context.write(message)
        self.unread_since = None

    async def write_part(self, message: bytes) -> None:
        """Send a message, or join it to the next one if the last one left a moment ago.

        Only for messages that may be joined: the bytes of two are one that adds up to both. Returns at once unless
        much waits for the client.

        Raises:
            Exception: gRPC could not send what was joined before.
        """
        if self._sending is None and self._loop.time() - self._sent_at >= MESSAGE_EVERY_S:
            await self.write(message)
            return
        self._joined += message
        if self._sending is None:
            self._sending = asyncio.ensure_future(self._send_joined())
        elif len(self._joined) > MAX_JOINED_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Return once all messages are sent, or the network on the way has taken them."""
        if self._sending is not None:
            await self._sending

    def close(self) -> None:
        """Leave what was not sent."""
        if self._sending is not None:
            self._sending.cancel()

    async def _send_joined(self) -> None:
        while self._joined:
            await asyncio.sleep(self._sent_at + MESSAGE_EVERY_S - self._loop.time())
            message, self._joined = bytes(self._joined), bytearray()
            await self.write(message)
        self._sending = None
