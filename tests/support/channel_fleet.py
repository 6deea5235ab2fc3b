"""Replicas behind real sockets and gateways' pools on top, in one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aloraserve.routing.leaving import LeavingReplicas
from aloraserve.routing.receipts import Outcome
from aloraserve.serving.replica_pool import Reservation
from aloraserve_services.channel.endpoint import Endpoint
from aloraserve_services.channel.server import ChannelServer
from aloraserve_services.gateway.channel_pool import ChannelPool
from aloraserve_services.gateway.replica_links import ReplicaLinks
from support.pool_replica import CAPACITY, PoolReplica, call_of

MAX_QUEUED = 2
WITHIN_S = 20.0


class NoHandle:
    """Stands for the pool over Serve's handle where no replica is to be reached by it."""

    def reserve(self, rank: Sequence[str], share: object = None) -> AbstractAsyncContextManager[Reservation]:
        raise AssertionError("every replica has a connection")

    def outcome_of(self, error: Exception) -> Outcome:
        return Outcome.FAILED


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a state of this process."""
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110 - plain data that notifies nobody
            await asyncio.sleep(0.005)
    assert condition(), what


@dataclass
class ChannelFleet:
    """Replicas that run here.

    Attributes:
        folder: where a file lies for each call that runs.
        is_tls: whether gateways come over TLS, as from another machine.
        replicas: by name.
        servers: likewise.
        endpoints: likewise; a test may replace one.
    """

    folder: Path
    is_tls: bool = False
    replicas: dict[str, PoolReplica] = field(default_factory=dict)
    servers: dict[str, ChannelServer] = field(default_factory=dict)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)

    async def add(self, name: str, capacity: int = CAPACITY) -> None:
        """Start a replica."""
        replica = PoolReplica(name, self.folder)
        await replica.start()
        server = ChannelServer(name, replica.generate, capacity)
        endpoint = await server.start("0.0.0.0" if self.is_tls else "127.0.0.1")
        self.replicas[name], self.servers[name] = replica, server
        self.endpoints[name] = replace(endpoint, socket="/none") if self.is_tls else endpoint

    async def remove(self, name: str) -> None:
        """Stop a replica."""
        self.servers.pop(name).close()
        await self.replicas.pop(name).stop()

    async def endpoint_of(self, name: str) -> Endpoint:
        """Answer as Serve does."""
        return self.endpoints[name]

    @asynccontextmanager
    async def gateway(
        self, handle: object = None, max_queued: int = MAX_QUEUED, leaving: LeavingReplicas | None = None
    ) -> AsyncIterator[tuple[ChannelPool, ReplicaLinks]]:
        """Run a gateway's pool that has reached every replica."""
        links = ReplicaLinks(lambda: tuple(self.endpoints), self.endpoint_of)
        reached_by_handle: Any = handle or NoHandle()
        pool = ChannelPool(links, reached_by_handle, max_queued=max_queued, leaving=leaving)
        async with links.running():
            await until(lambda: links.open.keys() | links.by_handle == self.endpoints.keys(), "all are reached")
            yield pool, links


@asynccontextmanager
async def channel_fleet(folder: Path, *names: str, is_tls: bool = False) -> AsyncIterator[ChannelFleet]:
    """Run replicas."""
    fleet = ChannelFleet(folder, is_tls)
    try:
        for name in names:
            await fleet.add(name)
        yield fleet
    finally:
        for name in list(fleet.servers):
            await fleet.remove(name)


async def answered(pool: ChannelPool, name: str = "plain-1") -> str:
    """Return replica a's answer to a call."""
    async with pool.reserve(["a"]) as place:
        return "".join([reply.text async for reply in place.send(call_of(name))])
