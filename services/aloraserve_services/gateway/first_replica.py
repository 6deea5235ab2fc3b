"""A fleet without replicas: its first one is started for the calls that wait.

Serve starts a replica of an empty deployment for requests that wait at its own handle. Calls wait in the gateway
instead, which Serve does not see; so one request of the gateway's waits at the handle for all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import structlog

RETRY_S = 0.5
"""Before Serve is asked again, where it refused."""

log = structlog.get_logger(__name__)


class FirstReplica:
    """See the module's docstring. For one event loop.

    Args:
        known: returns the ids of the replicas that Serve has now.
        waiting: returns how many calls wait.
        ask: makes a request that any replica answers, once there is one.
    """

    def __init__(
        self, known: Callable[[], Sequence[str]], waiting: Callable[[], int], ask: Callable[[], Awaitable[object]]
    ) -> None:
        self._known = known
        self._waiting = waiting
        self._ask = ask
        self._asking: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Have a replica started if a call waits and there is none."""
        if self._is_needed() and (self._asking is None or self._asking.done()):
            self._asking = asyncio.create_task(self._until_known(), name="first-replica")

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ask for nothing any more when the context ends."""
        try:
            yield
        finally:
            if self._asking is not None:
                self._asking.cancel()
                await asyncio.wait({self._asking})

    def _is_needed(self) -> bool:
        return self._waiting() > 0 and not self._known()

    async def _until_known(self) -> None:
        log.info("first_replica_wanted", waiting=self._waiting())
        while self._is_needed():
            try:
                await self._ask()
            except Exception as error:  # noqa: BLE001 - Serve's and Ray's errors: it may be starting, or gone again
                log.warning("first_replica_not_started", cause=type(error).__name__)
            await asyncio.sleep(RETRY_S)
