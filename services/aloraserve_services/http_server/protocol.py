"""One connection: uvicorn's protocol over httptools, with the bounds that neither of the two has."""

from __future__ import annotations

import asyncio
import enum
import re
from collections.abc import Awaitable
from http import HTTPStatus
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from aloraserve_services.http_server.limits import HttpLimits
from aloraserve_services.http_server.refusals import only_probes, raw_refusal, refusing

WRITE_BUFFER_BYTES = 32 << 10
"""What may wait to be sent before the application is stopped from writing more."""

FRAMING_A_BYTE = 16
"""Of a chunk, for each byte that it brings; one that brings a single byte has five or more."""

_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_STOPPING = refusing(HTTPStatus.SERVICE_UNAVAILABLE, "the server has stopped; retry elsewhere", (b"retry-after", b"1"))


_MALFORMED = refusing(HTTPStatus.BAD_REQUEST, "the request's body is not framed as HTTP/1.1 has it")
_NO_ONE_HOST = refusing(HTTPStatus.BAD_REQUEST, "one header 'Host' is needed")
_OTHER_VERSION = refusing(HTTPStatus.BAD_REQUEST, "only HTTP/1.1 and HTTP/1.0 are spoken here")


class Phase(enum.Enum):
    """What the next bytes of a connection belong to."""

    BETWEEN = "between two requests"
    HEAD = "a request's line and headers"
    BODY = "its body"
    DROPPED = "nothing: the connection is about to be closed"


class BoundedProtocol(HttpToolsProtocol):
    """A connection that cannot hold its server up.

    The application's task is cancelled as soon as the client has gone.

    Args:
        config: of uvicorn, with the application.
        state: of the server, with its connections and tasks.
        limits: of the server.
        loop: that runs it.
        surplus: the server's connections beyond ``max_connections``, the oldest first.
    """

    def __init__(
        self,
        config: Config,
        state: ServerState,
        limits: HttpLimits,
        loop: asyncio.AbstractEventLoop,
        surplus: dict[BoundedProtocol, None],
    ) -> None:
        super().__init__(config, state, {}, loop)
        self._surplus = surplus
        self._limits = limits
        self._phase = Phase.HEAD
        self._phase_since = loop.time()
        self._head_bytes = 0
        self._is_begun = False
        self._field_bytes = 0
        self._hosts = 0
        self._body_bytes = 0
        self._framing_bytes = 0
        self._discarded_bytes = 0
        self._unsent_bytes = 0
        self._unsent_since: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._lingers = False
        self._last_answer = _STOPPING

    @property
    def is_answering(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, if there is room for it."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        if len(self.connections) > self._limits.max_connections:
            self.app = only_probes(self.app)
            self._surplus[self] = None
        if len(self._surplus) > self._limits.max_surplus_connections:
            # A probe asks at once: whoever has waited longest is none.
            oldest = next((each for each in self._surplus if not each.is_answering), self)
            oldest.transport.abort()
            del self._surplus[oldest]

    def connection_lost(self, exc: Exception | None) -> None:
        """End what the client no longer waits for."""
        super().connection_lost(exc)
        self._surplus.pop(self, None)
        self.pipeline.clear()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        """Read, and count what is read."""
        if self._phase is Phase.DROPPED:
            self._discard(len(data))
            return
        if self._phase is Phase.BETWEEN:
            self._enter(Phase.HEAD)
        was_body = self._phase is Phase.BODY
        is_refused = was_body and not self.is_answering
        self._is_begun, self._body_bytes = False, 0
        super().data_received(_without_upgrade(data) if self._phase is Phase.HEAD else data)
        if self._phase is Phase.HEAD and not self._is_begun:
            self._count_head(len(data))
        elif is_refused:
            self._discard(len(data))
        elif was_body and self._phase is Phase.BODY:
            self._count_framing(len(data))

    def resume_writing(self) -> None:
        """Go on, now that the client has taken what waited for it."""
        super().resume_writing()
        self._unsent_since = None

    def on_message_begin(self) -> None:
        """See httptools."""
        super().on_message_begin()
        self._field_bytes = self._hosts = 0
        if self._phase is not Phase.HEAD:
            # Behind another request: what came with that one is not this one's head.
            self._is_begun = True
            self._enter(Phase.HEAD)

    def on_url(self, url: bytes) -> None:
        """See httptools."""
        self._field_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools; what follows a chunked body is no header of its request."""
        if self._phase is Phase.BODY:
            return
        self._field_bytes += len(name) + len(value)
        self._hosts += name.lower() == b"host"
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """Start to answer, now that the head is complete."""
        self._enter(Phase.BODY)
        if self._field_bytes > self._limits.max_head_bytes:
            self.app = refusing(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, self._head_message())
        elif (version := self.parser.get_http_version()) not in ("1.1", "1.0"):
            self.app = _OTHER_VERSION
        elif self._hosts > 1 or (version == "1.1" and not self._hosts):
            # Two ends that choose another of two hosts could be played off against each other.
            self.app = _NO_ONE_HOST
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """See httptools."""
        super().on_message_complete()
        self._enter(Phase.BETWEEN)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, be it a head or the body that is waited for."""
        waits_for_body = self._phase is Phase.BODY and self.is_answering and not self.pipeline
        if waits_for_body and not self.cycle.response_started and self._task is not None:
            self._last_answer = _MALFORMED
            # A task that has not begun would end without an answer.
            self.loop.call_soon(self._task.cancel)
        self._refuse(HTTPStatus.BAD_REQUEST, "the request is not HTTP/1.1")

    def _unsupported_upgrade_warning(self) -> None:
        """Close after the answer: an ``Upgrade`` that came in two parts was seen, and nothing behind it is read."""
        self._refuse(HTTPStatus.BAD_REQUEST, "another protocol is wished for; only HTTP/1.1 is spoken here")

    def expire(self, now: float) -> None:
        """Close the connection if the client has taken too long; the server calls this now and then."""
        limits, spent_s = self._limits, now - self._phase_since
        if self._is_stalled(now):
            self.transport.abort()
        elif self.is_answering:
            return
        elif self._phase is Phase.HEAD and spent_s > limits.head_timeout_s:
            self._refuse_slow_head()
        elif self._phase in (Phase.BODY, Phase.DROPPED) and spent_s > limits.discard_timeout_s:
            self.transport.abort()

    def finish(self) -> None:
        """Close the connection: now, or after the answer that is being sent."""
        if not self.is_answering:
            self.transport.close()
        else:
            self.cycle.keep_alive = False

    def _enter(self, phase: Phase) -> None:
        self._phase, self._phase_since = phase, self.loop.time()
        if phase is Phase.HEAD:
            self._head_bytes = 0
        elif phase is Phase.BODY:
            self._framing_bytes = 0

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        serve = self._until_gone(app, cycle)
        self._task = task = self.loop.create_task(cycle.run_asgi(serve))  # type: ignore[arg-type]
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def on_response_complete(self) -> None:
        """Read on; what is left of a refused body has its own deadline."""
        super().on_response_complete()
        self._phase_since = self.loop.time()
        self._discarded_bytes = 0
        if self._lingers:
            self._hang_up()

    def _until_gone(self, app: ASGIApp, cycle: RequestResponseCycle) -> ASGIApp:
        """Return an application whose task may be cancelled: the client has gone, or the server stops."""

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            def send_last(message: Message) -> Awaitable[None]:
                if scope["http_version"] != "1.1":
                    _have_closing_end(cycle, message)
                if cycle.more_body and not cycle.keep_alive and message["type"] == "http.response.body":
                    # uvicorn would close the connection at once.
                    cycle.keep_alive = self._lingers = True
                return send(message)

            try:
                await app(scope, receive, send_last)
            except asyncio.CancelledError:
                if not cycle.response_started:
                    await self._last_answer(scope, receive, send_last)
                elif not cycle.response_complete:
                    self.transport.abort()

        return serve

    def _is_stalled(self, now: float) -> bool:
        """Return whether the client has left what it was sent unread for too long."""
        is_held_up = self.flow.write_paused or self.transport.is_closing()
        unsent = self.transport.get_write_buffer_size() if is_held_up else 0
        if not unsent:
            self._unsent_since = None
        elif self._unsent_since is None or unsent < self._unsent_bytes:
            self._unsent_since = now
        elif now - self._unsent_since > self._limits.stall_timeout_s:
            return True
        self._unsent_bytes = unsent
        return False

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._limits.max_head_bytes:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, self._head_message())

    def _count_framing(self, size: int) -> None:
        """Close on a body of which little is content: chunks' extensions and trailers have no bound of their own."""
        framing = size - (1 + FRAMING_A_BYTE) * self._body_bytes
        self._framing_bytes = max(0, self._framing_bytes + framing)
        if self._framing_bytes > self._limits.max_head_bytes:
            self.transport.abort()

    def _discard(self, size: int) -> None:
        self._discarded_bytes += size
        if self._discarded_bytes > self._limits.max_discarded_bytes:
            self.transport.abort()

    def _head_message(self) -> str:
        return f"the request line and headers have more than {self._limits.max_head_bytes} bytes"

    def _refuse_slow_head(self) -> None:
        if not self._head_bytes:
            self.transport.close()
            return
        message = f"the request's headers were not complete within {self._limits.head_timeout_s:g} s"
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, message)

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """Answer what never became a request, unless an answer is under way: then that is the last one."""
        self._discarded_bytes = 0
        if self.is_answering:
            self._enter(Phase.DROPPED)
            self.cycle.keep_alive = False
            return
        self.transport.write(raw_refusal(status, message, self.server_state.default_headers))
        self._hang_up()

    def _hang_up(self) -> None:
        """Say that no more will come; then wait for the client to close the connection, or for ``expire``.

        To close it while the client still sends would have the kernel reset it, and the client might not see the
        answer.
        """
        self._enter(Phase.DROPPED)
        if self.transport.can_write_eof():
            self.transport.write_eof()


def _without_upgrade(data: bytes) -> bytes:
    """Return a head whose ``Upgrade`` is another field, which a server may do without: llhttp would drop the body.

    Java's own client asks for HTTP/2 in this way with its first request.
    """
    end = data.find(b"\r\n\r\n")
    found = _UPGRADE.search(data, 0, end if end >= 0 else len(data))
    return data if found is None else data[: found.start()] + b"\r\nx-upgrade:" + data[found.end() :]


def _have_closing_end(cycle: RequestResponseCycle, message: Message) -> None:
    """Have an answer of unknown length end with its connection; uvicorn would send chunks, which HTTP/1.0 has not."""
    if message["type"] == "http.response.body":
        cycle.expected_content_length = max(cycle.expected_content_length, len(message.get("body", b"")))
    elif all(name.lower() != b"content-length" for name, _ in message["headers"]):
        cycle.chunked_encoding = False
