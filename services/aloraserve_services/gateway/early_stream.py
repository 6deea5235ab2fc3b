"""Streams that are silent for long: comments keep their connection in use, and headers do not wait for the first token.

A proxy on the way ends a request whose response has not begun, or says nothing, for some time (nginx and AWS' load
balancers: 60 s). Clients pass comments over: lines that begin with a colon (WHATWG, server-sent events).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import structlog
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from aloraserve_services.gateway.event_stream import STREAM_HEADERS, Ending, EventStream, say_goodbye, send_last
from aloraserve_services.gateway.stream_comments import send_comment

log = structlog.get_logger(__name__)


async def begun_in_time(beginning: Coroutine[Any, Any, Response], comment_s: float, ending: Ending) -> Response:
    """Return a streamed answer once its first token is there, or one whose headers leave before.

    Args:
        beginning: returns the answer, or raises what is wrong with its request.
        comment_s: how long the client may see nothing.
        ending: writes the end of one that fails before its first token, and after its headers.
    """
    begun = asyncio.create_task(beginning)
    try:
        await asyncio.wait({begun}, timeout=comment_s)
    except asyncio.CancelledError:
        await _give_up(begun)
        raise
    return begun.result() if begun.done() else EarlyStream(begun, comment_s, ending)


class EarlyStream(Response):
    """A stream whose headers leave before its first token; until that is there, comments follow.

    What is wrong from now on is an error event: the status is sent. The headers that say who answers are missing.

    Args:
        begun: the answer, once its first token is there.
        comment_s: between two comments.
        ending: see :func:`begun_in_time`.
    """

    def __init__(self, begun: asyncio.Task[Response], comment_s: float, ending: Ending) -> None:
        self.status_code = 200
        self.background = None
        self._begun = begun
        self._comment_s = comment_s
        self._ending = ending
        self.init_headers(STREAM_HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send comments until the answer has begun, then the answer."""
        async with _given_up(self._begun):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                response = await self._waited_for(send)
            except asyncio.CancelledError:
                await say_goodbye(send, self._ending)
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, the client learns it from the stream alone
                log.warning("answer_not_begun", cause=type(error).__name__)
                await send_last(send, self._ending(error))
                return
            await response(scope, receive, _without_start(send))

    async def _waited_for(self, send: Send) -> Response:
        while not self._begun.done():
            await send_comment(send)
            await asyncio.wait({self._begun}, timeout=self._comment_s)
        return self._begun.result()


def _without_start(send: Send) -> Send:
    """Return what sends a response whose headers have left."""

    async def send_rest(message: Message) -> None:
        if message["type"] != "http.response.start":
            await send(message)

    return send_rest


@contextlib.asynccontextmanager
async def _given_up(begun: asyncio.Task[Response]) -> AsyncIterator[None]:
    """End what has begun when the context ends, if nobody has."""
    try:
        yield
    finally:
        await _give_up(begun)


async def _give_up(begun: asyncio.Task[Response]) -> None:
    """End an answer that nobody will read: what begins it, or what it has begun."""
    begun.cancel()
    await asyncio.wait({begun})
    if not begun.cancelled() and begun.exception() is None and isinstance(stream := begun.result(), EventStream):
        await stream.aclose()
