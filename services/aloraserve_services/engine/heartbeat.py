"""A replica's proof of life: its load in the directory, now and then, and at once when a prefill is over."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from aloraserve.directory.base import ReplicaState
from aloraserve.directory.ingest import Ingest
from aloraserve_services.engine.progress import Progress

HEARTBEAT_S = 0.15
MIN_HEARTBEAT_S = 0.015
"""Between the starts of two heartbeats, however many prefills end: one reports ten of them as well as one."""
ANSWER_HELD_S = 0.05
"""How long an answer's last chunk waits for the heartbeat that reports the end of its prefill."""


class Heartbeat:
    """Publishes the load, several times per second.

    A conversation's next call follows the last one's answer at once: a queue that is reported for a tenth of a second
    too long would send it away from its prefix. So the end of a prefill is published at once, and an answer's last
    chunk waits for that. What comes is reported by its claim.

    Args:
        ingest: publishes.
        progress: which calls have come, to be reported as settled.
        state: returns what to publish now.
        answer_held_s: see :data:`ANSWER_HELD_S`.
    """

    def __init__(
        self,
        ingest: Ingest,
        progress: Progress,
        state: Callable[[], ReplicaState],
        *,
        answer_held_s: float = ANSWER_HELD_S,
    ) -> None:
        self._ingest = ingest
        self._progress = progress
        self._state = state
        self._answer_held_s = answer_held_s
        self._prefilled = asyncio.Event()
        self._published = asyncio.Event()
        self._begun = self._ended = 0
        # Until the first heartbeat nobody waits for one.
        self._is_acknowledged = False

    def prefill_ended(self) -> int:
        """Ask for a heartbeat soon; return its number, for :meth:`reported`."""
        self._prefilled.set()
        return self._begun + 1

    async def reported(self, number: int) -> None:
        """Wait, not for long, until that heartbeat is published; mostly it was, while the answer was generated.

        While the directory is gone nothing is published, and nothing waited for.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._answer_held_s):
                while self._is_acknowledged and self._ended < number:
                    self._published.clear()
                    await self._published.wait()

    async def run(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Publish until cancelled, or until ``is_over`` says so."""
        while not is_over():
            self._prefilled.clear()
            begun_at = time.monotonic()
            await self._publish()
            await self._pause(begun_at)

    async def _publish(self) -> None:
        self._begun += 1
        settled = self._progress.settled()
        self._is_acknowledged = await self._ingest.heartbeat(self._state(), settled=settled)
        if self._is_acknowledged:
            self._progress.acknowledged(settled)
        self._ended = self._begun
        self._published.set()

    async def _pause(self, begun_at: float) -> None:
        """Wait until it is time to publish again."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEARTBEAT_S):
                await self._prefilled.wait()
        await asyncio.sleep(max(0.0, begun_at + MIN_HEARTBEAT_S - time.monotonic()))
