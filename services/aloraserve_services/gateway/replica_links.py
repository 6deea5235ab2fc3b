"""A gateway's connections to the engine replicas: one to each that Serve has, and again where one is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial

import structlog

from aloraserve_services.channel.connection import ChannelLostError, ReplicaConnection, connect
from aloraserve_services.channel.endpoint import ChannelVersionError, Endpoint
from aloraserve_services.kept_tasks import kept

RETRY_S = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Between attempts at one replica; the last counts from then on."""
ASK_TIMEOUT_S = 30.0
"""Of a replica that Serve has and that does not say where it takes calls; it is asked again."""
LOOK_S = 1.0
"""Between looks at Serve's list; most changes are noted at once."""

log = structlog.get_logger(__name__)


class ReplicaLinks:
    """Keeps a connection to every known replica, while :meth:`running` is entered.

    A replica that answers through Serve and cannot be reached by a connection (another version, a port that is closed)
    is used through Serve's handle until it can.

    Args:
        known: returns the ids of the replicas that Serve has now.
        endpoint_of: asks a replica, through Serve, where it takes calls.

    Attributes:
        open: connections that can be used, by replica.
        by_handle: replicas that are reached through Serve's handle.
    """

    def __init__(self, known: Callable[[], Sequence[str]], endpoint_of: Callable[[str], Awaitable[Endpoint]]) -> None:
        self.open: dict[str, ReplicaConnection] = {}
        self.by_handle: set[str] = set()
        self._known = known
        self._endpoint_of = endpoint_of
        self._keeping: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._on_room: Callable[[], None] = lambda: None

    def notify(self, on_room: Callable[[], None]) -> None:
        """Have ``on_room`` called whenever there may be a place that was not there before."""
        self._on_room = on_room

    def look(self) -> None:
        """Look at Serve's list soon."""
        self._changed.set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the connections until the context ends."""
        following = asyncio.create_task(kept(self._follow), name="replica-links")
        try:
            yield
        finally:
            tasks = [following, *self._keeping.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for connection in self.open.values():
                connection.close("the gateway ends")
            self.open.clear()

    async def _follow(self) -> None:
        while True:
            known = set(self._known())
            for replica in self._keeping.keys() - known:
                self._drop(replica)
            for replica in known - self._keeping.keys():
                self._keeping[replica] = asyncio.create_task(kept(partial(self._keep, replica)), name=f"link-{replica}")
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._changed.wait()

    def _drop(self, replica: str) -> None:
        """Send a replica nothing further that Serve has dropped; what runs there may end."""
        self._keeping.pop(replica).cancel()
        self.by_handle.discard(replica)
        if (connection := self.open.pop(replica, None)) is not None:
            connection.retire()

    async def _keep(self, replica: str) -> None:
        tries = 0
        while True:
            connection = await self._connected(replica)
            if connection is not None:
                tries = 0
                self.open[replica] = connection
                self._on_room()
                cause = await asyncio.shield(connection.closed)
                del self.open[replica]
                log.warning("channel_lost", replica=replica, cause=cause)
            await asyncio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])
            tries += 1

    async def _connected(self, replica: str) -> ReplicaConnection | None:
        """Return a connection, None if there is none now."""
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                endpoint = await self._endpoint_of(replica)
        except ChannelVersionError as error:
            self._use_handle(replica, error)
            return None
        except Exception as error:  # noqa: BLE001 - Ray's and Serve's errors: it may be starting, or gone
            self.by_handle.discard(replica)
            log.debug("replica_not_asked", replica=replica, cause=type(error).__name__)
            return None
        try:
            connection = await connect(endpoint, self._on_room)
        except (ChannelLostError, ChannelVersionError) as error:
            self._use_handle(replica, error)
            return None
        self.by_handle.discard(replica)
        return connection

    def _use_handle(self, replica: str, error: Exception) -> None:
        if replica not in self.by_handle:
            log.warning("channel_not_opened", replica=replica, cause=str(error))
            self.by_handle.add(replica)
            self._on_room()
