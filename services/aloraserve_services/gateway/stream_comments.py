"""Comments in a stream that is silent: one timer per stream, and nothing per event but two times."""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Self

from starlette.types import Send

COMMENT = b": keep-alive\n\n"


async def send_comment(send: Send) -> None:
    """Send what every client of server-sent events passes over."""
    await send({"type": "http.response.body", "body": COMMENT, "more_body": True})


class StreamComments:
    """Sends a comment whenever a stream's writer has waited for its next event for long; a context.

    Args:
        send: of the stream; nobody sends while its writer waits.
        every_s: how long the client may see nothing.
    """

    def __init__(self, send: Send, every_s: float) -> None:
        self._send = send
        self._every_s = every_s
        self._loop = asyncio.get_running_loop()
        self._waits_since = math.inf
        self._sending: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        """Begin."""
        self._arm(self._loop.time())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._sending is not None:
            self._sending.cancel()
            # Whatever it ended with: who has gone is found out by what ends the stream.
            await asyncio.gather(self._sending, return_exceptions=True)

    def wait(self) -> None:
        """Note that the writer waits for an event from now on."""
        self._waits_since = self._loop.time()

    async def arrived(self) -> None:
        """Note that the writer is about to send; return once no comment is on its way.

        Raises:
            Exception: a comment could not be sent.
        """
        self._waits_since = math.inf
        if (sending := self._sending) is not None:
            await asyncio.wait({sending})
            self._sending = None
            sending.result()

    def _arm(self, now: float) -> None:
        if self._every_s < math.inf:
            self._timer = self._loop.call_at(min(now, self._waits_since) + self._every_s, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        if now - self._waits_since >= self._every_s:
            self._waits_since = now
            if self._has_sent():
                self._sending = asyncio.create_task(send_comment(self._send))
        self._arm(now)

    def _has_sent(self) -> bool:
        """Whether no comment is on its way, and none has failed: the writer then hears of it."""
        sending = self._sending
        return sending is None or (sending.done() and not sending.cancelled() and sending.exception() is None)
