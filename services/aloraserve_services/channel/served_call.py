"""One call on the replica's end: its replies are pulled from the engine no faster than its gateway reads them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

import structlog

from aloraserve.routing.fair_share import TenantShare
from aloraserve.serving.engine_messages import DEAD_ENGINE_ERRORS, EngineCall, EngineReply
from aloraserve_services.channel.codec import reply_message
from aloraserve_services.channel.messages import End, Failed, Message

Generate = Callable[[EngineCall], AsyncGenerator[EngineReply]]

log = structlog.get_logger(__name__)


class ServedCall:
    """Runs one call in a task of its own.

    Args:
        number: of the call on its connection.
        call: to be answered.
        credits: replies that may be sent before more are granted.
        generate: the engine's side; closing its iterator aborts the call.
        send: puts a message on the connection.
        on_end: called once with the number, when the call runs no more.
    """

    def __init__(
        self,
        number: int,
        call: EngineCall,
        credits: int,
        generate: Generate,
        send: Callable[[Message], None],
        on_end: Callable[[int], None],
    ) -> None:
        self._number = number
        self._call = call
        self._credits = credits
        self._generate = generate
        self._send = send
        self._granted = asyncio.Event()
        self._task = asyncio.create_task(self._run())
        # Not at the end of the task: one that is cancelled at once never begins.
        self._task.add_done_callback(lambda _: on_end(number))

    @property
    def share(self) -> TenantShare | None:
        """Of its tenant."""
        return self._call.share

    def grant(self, chunks: int) -> None:
        """Allow so many replies more."""
        self._credits += chunks
        self._granted.set()

    def cancel(self) -> None:
        """End the call; nothing of it is sent any more."""
        self._task.cancel()

    async def _run(self) -> None:
        try:
            await self._pump()
        except Exception as error:  # noqa: BLE001 - whatever it is, the gateway waits for an end
            self._send(self._failure(error))
        else:
            self._send(End(self._number))

    async def _pump(self) -> None:
        async with contextlib.aclosing(self._generate(self._call)) as replies:
            async for reply in replies:
                while not self._credits:
                    self._granted.clear()
                    await self._granted.wait()
                self._credits -= 1
                self._send(reply_message(self._number, reply))

    def _failure(self, error: Exception) -> Failed:
        cause = type(error).__name__
        log.error("call_failed", request_id=self._call.request_id, cause=cause, exc_info=error)
        return Failed(self._number, cause in DEAD_ENGINE_ERRORS, cause)
