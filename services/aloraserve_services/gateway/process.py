"""The gateway's process as Prometheus finds it, and whom it tells Prometheus of."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from ray import serve

from aloraserve.directory.base import Directory
from aloraserve.settings import Settings
from aloraserve.telemetry.process import ObservedProcess
from aloraserve.telemetry.targets import scrape_targets
from aloraserve.telemetry.tracing import Tracing
from aloraserve_services.engine.replica_telemetry import node_ip

ROLE = "gateway"


class GatewayProcess:
    """Shows this gateway's metrics while it runs.

    Args:
        settings: the platform's.
        directory: where processes with metrics are listed.
        tracing: of this process; it begins here.
    """

    def __init__(self, settings: Settings, directory: Directory, tracing: Tracing) -> None:
        self._settings = settings
        self._tracing = tracing
        self._directory = directory
        self._observed: ObservedProcess | None = None

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Run beside the HTTP application ``app``."""
        name = f"{ROLE}-{serve.get_replica_context().rank.rank}"
        self._observed = ObservedProcess(self._settings, ROLE, name, node_ip, self._tracing)
        announcing = asyncio.create_task(self._observed.keep_announced(self._directory), name="announce")
        try:
            yield
        finally:
            announcing.cancel()
            await asyncio.to_thread(self._tracing.flush)

    async def targets(self) -> list[dict[str, Any]]:
        """Return every process with metrics, this one whether the directory lists it yet or not.

        Raises:
            DirectoryUnavailableError: it does not say; Prometheus keeps the targets that it had.
        """
        listed = await self._directory.announced()
        own = self._observed.process if self._observed else None
        return scrape_targets([*listed, *([own] if own else [])])
