"""Tasks beside an engine. One that fails begins again: what they keep up is advisory, the engine's answers are not."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from aloraserve.errors import KeySpaceMismatchError

FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 30.0

Work = Callable[[], Coroutine[Any, Any, None]]
log = structlog.get_logger(__name__)


class KeptTasks:
    """Runs tasks until :meth:`cancel`.

    A bug, or an odd reply of the directory, would end the same task of every replica at the same moment; were that a
    failure of the replica, Serve would start every engine of the fleet again, and meet it again.
    """

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def keep(self, *works: Work) -> None:
        """Run tasks that begin again where they fail, after a pause that grows.

        A key space that is another one is no such failure: the replica's blocks are not what its fleet takes them for.
        """
        self._tasks += [asyncio.create_task(_again_and_again(work), name=work.__name__) for work in works]

    def need(self, *works: Work) -> None:
        """Run tasks without which the replica must not go on: one that fails is a failure of the replica."""
        self._tasks += [asyncio.create_task(work(), name=work.__name__) for work in works]

    def check(self) -> None:
        """Raise what a task has failed with for good."""
        for task in self._tasks:
            if task.done():
                task.result()

    def cancel(self) -> None:
        """End all."""
        for task in self._tasks:
            # The event loop may be closed by now.
            with contextlib.suppress(RuntimeError):
                task.cancel()


async def _again_and_again(work: Work) -> None:
    pause_s = FIRST_PAUSE_S
    while True:
        began_at = time.monotonic()
        try:
            return await work()
        except KeySpaceMismatchError:
            raise
        except Exception as error:
            log.error("task_failed", task=work.__name__, cause=type(error).__name__, exc_info=error)
        if time.monotonic() - began_at > MAX_PAUSE_S:
            pause_s = FIRST_PAUSE_S
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, MAX_PAUSE_S)
