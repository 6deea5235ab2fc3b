"""An answer as server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from aloraserve.errors import DrainingError
from aloraserve.wire import reply_for
from aloraserve_services.gateway.answer_headers import EVENTS


class Closing(Protocol):
    """What can be closed before its end."""

    async def aclose(self) -> None:
        """End it."""


GOODBYE_S = 1.0
"""How long a client may take for the last event of a stream that is cut off."""

_HEADERS = {"content-type": "text/event-stream; charset=utf-8", **EVENTS}


class EventStream(Response):
    """Sends events as they come, and asks for the next one only when the client has taken the last ones.

    A client that goes away aborts the generation: its task is cancelled, and the end of the task closes it.

    Args:
        events: to send.
        call: that they are written from; it is closed in the end.
        headers: of the response.
    """

    def __init__(self, events: AsyncGenerator[bytes], call: Closing, headers: Mapping[str, str]) -> None:
        self.status_code = 200
        self.background = None
        self._events = events
        self._call = call
        self.init_headers({**_HEADERS, **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all events; end what generates them in any case."""
        # The events first: what they wait for beside the chunks, such as intrinsics, ends with them.
        async with contextlib.aclosing(self._call), contextlib.aclosing(self._events):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                async for written in self._events:
                    await send({"type": "http.response.body", "body": written, "more_body": True})
            except asyncio.CancelledError:
                await _say_goodbye(send)
                raise
            await send({"type": "http.response.body", "body": b""})


async def _say_goodbye(send: Send) -> None:
    """End a stream that is cut off with an error; whoever has gone, or does not read, misses nothing by it."""
    error = json.dumps(reply_for(DrainingError("the gateway has stopped; the answer is incomplete")).body)
    body = f"data: {error}\n\ndata: [DONE]\n\n".encode()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GOODBYE_S):
            await send({"type": "http.response.body", "body": body})
