"""A gateway's registry kept up while it serves, and its changes in the log."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from aloraserve.adapters import AdapterRegistry, RefusedAdapter

log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def following(registry: AdapterRegistry) -> AsyncIterator[None]:
    """Have a registry follow its source, and log what changes, until the context ends."""
    tasks = [
        asyncio.create_task(registry.run(), name="follow_adapters"),
        asyncio.create_task(_log_changes(registry), name="log_adapters"),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _log_changes(registry: AdapterRegistry) -> None:
    refused: set[RefusedAdapter] = set()
    async for change in registry.watch():
        for version in change.removed:
            log.info("adapter_removed", adapter=version.engine_name)
        for version in change.added:
            log.info("adapter_served", adapter=version.engine_name, kind=version.kind)
        for adapter in set(change.refused) - refused:
            log.warning("adapter_refused", adapter=adapter.name, reason=adapter.reason)
        refused = set(change.refused)
