"""An answer as server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from aloraserve.errors import DrainingError
from aloraserve_services.gateway.answer_headers import EVENTS
from aloraserve_services.gateway.answers.events import without_odd_line_ends
from aloraserve_services.gateway.stream_comments import StreamComments

Ending = Callable[[Exception], bytes]
"""Writes the end of a stream that an error cuts short."""


class Closing(Protocol):
    """What can be closed before its end."""

    async def aclose(self) -> None:
        """End it."""


GOODBYE_S = 1.0
"""How long a client may take for the last event of a stream that is cut off."""

STREAM_HEADERS = {"content-type": "text/event-stream; charset=utf-8", **EVENTS}


class EventStream(Response):
    """Sends events as they come, and asks for the next one only when the client has taken the last ones.

    A client that goes away aborts the generation: its task is cancelled, and the end of the task closes it.

    Args:
        events: to send.
        call: that they are written from; it is closed in the end.
        headers: of the response.
        ending: see :data:`Ending`; what cuts the events short themselves is in them.
        comment_s: how long the client may see nothing; then it gets a comment.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes],
        call: Closing,
        headers: Mapping[str, str],
        ending: Ending,
        comment_s: float = math.inf,
    ) -> None:
        self.status_code = 200
        self.background = None
        self._events = events
        self._call = call
        self._ending = ending
        self._comment_s = comment_s
        self.init_headers({**STREAM_HEADERS, **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all events; end what generates them in any case."""
        async with contextlib.aclosing(self), StreamComments(send, self._comment_s) as comments:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                comments.wait()
                async for written in self._events:
                    await comments.arrived()
                    await send(
                        {"type": "http.response.body", "body": without_odd_line_ends(written), "more_body": True}
                    )
                    comments.wait()
            except asyncio.CancelledError:
                await say_goodbye(send, self._ending)
                raise
            await comments.arrived()
            await send({"type": "http.response.body", "body": b""})

    async def aclose(self) -> None:
        """End what generates the events."""
        # The events first: what they wait for beside the chunks, such as intrinsics, ends with them.
        async with contextlib.aclosing(self._call):
            await self._events.aclose()


async def say_goodbye(send: Send, ending: Ending) -> None:
    """End a stream that is cut off with an error; whoever has gone, or does not read, misses nothing by it."""
    error = DrainingError("the gateway has stopped; the answer is incomplete")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GOODBYE_S):
            await send_last(send, ending(error))


async def send_last(send: Send, events: bytes) -> None:
    """End a stream with its last events."""
    await send({"type": "http.response.body", "body": events})
