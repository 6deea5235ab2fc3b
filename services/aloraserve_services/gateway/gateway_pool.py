"""The pool that a gateway's settings ask for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from aloraserve.routing.leaving import LeavingReplicas
from aloraserve.serving.replica_pool import ReplicaPool
from aloraserve.settings import Settings
from aloraserve_services.gateway.channel_pool import ChannelPool
from aloraserve_services.gateway.first_replica import FirstReplica
from aloraserve_services.gateway.known_replicas import watching
from aloraserve_services.gateway.replica_links import ReplicaLinks
from aloraserve_services.gateway.serve_pool import ServePool, any_replica, replica_endpoints


class GatewayPool:
    """The engine replicas of a gateway, over connections or over Serve's handle.

    Args:
        settings: of the fleet.
        engines: Serve's handle of the engine deployment.
        known: returns the ids of the replicas that Serve has now.
        leaving: those that are to be stopped, and get no new calls.

    Attributes:
        replicas: the pool.
        waiting: returns how many calls wait for room; 0 where Serve's handle has them.
    """

    def __init__(
        self, settings: Settings, engines: Any, known: Callable[[], Sequence[str]], leaving: LeavingReplicas
    ) -> None:
        self.replicas: ReplicaPool = ServePool(engines)
        self.waiting: Callable[[], int] = lambda: 0
        self._links: ReplicaLinks | None = None
        self._first: FirstReplica | None = None
        self._holds_calls = settings.scales_to_zero
        if settings.transport == "channel":
            self._links = ReplicaLinks(known, replica_endpoints(engines))
            pool = ChannelPool(self._links, self.replicas, max_queued=settings.max_queued, leaving=leaving)
            self.waiting = lambda: pool.waiting
            self._first = FirstReplica(known, lambda: pool.waiting, any_replica(engines))
            if self._holds_calls:
                pool.notify(self._first.look)
            self.replicas = pool

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the connections on this event loop, until the context ends."""
        if self._links is None or self._first is None:
            yield
            return
        loop, links, first = asyncio.get_running_loop(), self._links, self._first

        def look() -> None:
            links.look()
            if self._holds_calls:
                # The last replica may have gone while a call waits.
                first.look()

        with watching(lambda: loop.call_soon_threadsafe(look)):
            async with self._links.running(), self._first.running():
                yield
