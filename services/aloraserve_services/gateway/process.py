"""The gateway's process as Prometheus finds it, and the list of processes that it gives Prometheus."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from ray import serve

from aloraserve.settings import Settings
from aloraserve.telemetry.endpoints import EndpointRegistry
from aloraserve.telemetry.process import ObservedProcess
from aloraserve.telemetry.targets import scrape_targets
from aloraserve.telemetry.tracing import Tracing
from aloraserve_services.kept_tasks import kept
from aloraserve_services.node import node_ip

ROLE = "gateway"


class GatewayProcess:
    """Shows this gateway's metrics while it runs.

    Args:
        settings: of the platform.
        endpoints: where processes with metrics are listed.
        tracing: of this process; it begins here.
    """

    def __init__(self, settings: Settings, endpoints: EndpointRegistry, tracing: Tracing) -> None:
        self._settings = settings
        self._endpoints = endpoints
        self._tracing = tracing
        self._observed: ObservedProcess | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Show the metrics, and be listed, for the time of the context."""
        name = f"{ROLE}-{serve.get_replica_context().rank.rank}"
        self._observed = ObservedProcess(self._settings, ROLE, name, node_ip, self._tracing)
        registering = asyncio.create_task(
            kept(partial(self._observed.keep_registered, self._endpoints)), name="register"
        )
        try:
            yield
        finally:
            registering.cancel()
            await asyncio.to_thread(self._tracing.flush)

    async def targets(self) -> list[dict[str, Any]]:
        """Return every process with metrics, this one whether it is listed yet or not.

        Raises:
            DirectoryUnavailableError: the list cannot be read; Prometheus keeps the targets that it had.
        """
        listed = await self._endpoints.endpoints()
        own = self._observed.endpoint if self._observed else None
        return scrape_targets([*listed, *([own] if own else [])])
