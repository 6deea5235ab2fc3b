"""A gateway's adapters: what it serves, who manages them, and what it knows of where they are."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial

import structlog

from aloraserve.adapters import AdapterRegistry, JoinedRegistry, RefusedAdapter
from aloraserve.adapters.catalog import AdapterEntry
from aloraserve.adapters.management import AdapterManager, Usage
from aloraserve.adapters.management.intake import Prove, StoreIntake
from aloraserve.adapters.sources import SourceFetcher
from aloraserve.directory.base import Directory, ReplicaState
from aloraserve.errors import DirectoryUnavailableError
from aloraserve_services.kept_tasks import kept
from aloraserve_services.plan import FleetPlan

STATES_KEPT_S = 0.5
"""How long replicas' states answer further questions: a page of the catalog asks a hundred."""
LOADS_NOTED_S = 2.0

log = structlog.get_logger(__name__)


class DirectoryUsage:
    """See :class:`~aloraserve.adapters.management.base.AdapterUsage`; replicas say in the directory what they have.

    Args:
        directories: of the fleet's cells.
    """

    def __init__(self, directories: Sequence[Directory]) -> None:
        self._directories = directories
        self._reading = asyncio.Lock()
        self._states: list[ReplicaState] = []
        self._read_at = -STATES_KEPT_S

    async def of(self, entry: AdapterEntry) -> Usage:
        """See the contract."""
        states, key = await self.states(), entry.ref.key
        return Usage(
            tuple(sorted(state.label for state in states if key in state.resident)),
            tuple(sorted(state.label for state in states if key in state.active_adapters)),
            tuple(sorted(state.label for state in states if key in state.slotted)),
        )

    async def states(self) -> list[ReplicaState]:
        """Return every replica's state.

        Raises:
            DirectoryUnavailableError: a cell's directory does not answer.
        """
        async with self._reading:
            if time.monotonic() - self._read_at >= STATES_KEPT_S:
                found = await asyncio.gather(*(directory.states() for directory in self._directories))
                self._states = [state for of_cell in found for state in of_cell]
                self._read_at = time.monotonic()
            return self._states


class GatewayAdapters:
    """The registry and the manager of one gateway.

    Attributes:
        registry: of what is served.
        manager: of the catalog.

    Args:
        plan: of the fleet, with a Redis.
        directories: of the fleet's cells.
        prove: see :class:`~aloraserve.adapters.management.intake.StoreIntake`.
    """

    def __init__(self, plan: FleetPlan, directories: Sequence[Directory], prove: Prove | None = None) -> None:
        self.registry = plan.open_joined_registry(keeps_catalog=True)
        self._usage = DirectoryUsage(directories)
        store = plan.open_store()
        catalog = self.registry.catalog
        self.manager = AdapterManager(
            catalog.source,
            catalog.view,
            StoreIntake(
                SourceFetcher(plan.settings.adapter_policy, store.stage),
                plan.open_reader,
                store,
                has_room=plan.limits is not None,
                prove=prove,
            ),
            self._usage,
            base=plan.base_fingerprint,
            base_names=(plan.served_name,),
            namespace=plan.settings.namespace,
            on_change=catalog.catch_up,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow folder and catalog, log what changes, and note what replicas have loaded, until the context ends."""
        async with following(self.registry):
            noting = asyncio.create_task(kept(partial(_note_loads, self.registry, self._usage)))
            try:
                yield
            finally:
                noting.cancel()
                await asyncio.wait({noting})
                await self.manager.close()


@contextlib.asynccontextmanager
async def following(registry: AdapterRegistry) -> AsyncIterator[None]:
    """Have a registry follow its source, and log what changes, until the context ends; then it is closed."""
    await registry.begin()
    tasks = [
        asyncio.create_task(kept(registry.run), name="follow_adapters"),
        asyncio.create_task(kept(partial(_log_changes, registry)), name="log_adapters"),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await registry.close()


async def _note_loads(registry: JoinedRegistry, usage: DirectoryUsage) -> None:
    """Have the catalog know which versions a replica has loaded at least once."""
    while True:
        await asyncio.sleep(LOADS_NOTED_S)
        with contextlib.suppress(DirectoryUnavailableError):
            states = await usage.states()
            await registry.catalog.note_loaded({key: state.label for state in states for key in state.resident})


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
