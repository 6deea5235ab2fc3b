"""Tasks beside a gateway or an engine. One that fails begins again: what they keep up is advisory, answers are not."""

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


async def kept(work: Work) -> None:
    """Do something until it ends by itself; where it fails, again, after a pause that grows.

    Args:
        work: to be done.

    Raises:
        KeySpaceMismatchError: this is not such a failure: a replica's blocks are not what its fleet takes them for.
    """
    pause_s = FIRST_PAUSE_S
    while True:
        began_at = time.monotonic()
        try:
            return await work()
        except KeySpaceMismatchError:
            raise
        except Exception as error:
            log.error("task_failed", task=_name_of(work), cause=type(error).__name__, exc_info=error)
        if time.monotonic() - began_at > MAX_PAUSE_S:
            pause_s = FIRST_PAUSE_S
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, MAX_PAUSE_S)


class KeptTasks:
    """Runs tasks until :meth:`cancel`.

    A bug, or an odd reply of the directory, would end the same task of every replica at the same moment; were that a
    failure of the replica, Serve would start every engine of the fleet again, and meet it again.
    """

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def keep(self, *works: Work) -> None:
        """Run tasks that begin again where they fail, see :func:`kept`."""
        self._tasks += [asyncio.create_task(kept(work), name=_name_of(work)) for work in works]

    def need(self, *works: Work) -> None:
        """Run tasks without which the replica must not go on: one that fails is a failure of the replica."""
        self._tasks += [asyncio.create_task(work(), name=_name_of(work)) for work in works]

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


def _name_of(work: Work) -> str:
    """Return the name of what is done, which a partial function has not."""
    return str(getattr(getattr(work, "func", work), "__name__", "task"))
