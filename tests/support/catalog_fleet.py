"""Registries of several processes over one catalog and one store, with real adapters of a base of a few numbers."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from aloraserve.adapters import AdapterLimits, AdapterReader, AdapterStore, JoinedRegistry, StaticRegistry
from aloraserve.adapters.base import AdapterRegistry
from aloraserve.adapters.catalog import AdapterCatalog, AdapterEntry
from aloraserve.adapters.catalog.backup import CatalogBackup
from aloraserve.adapters.catalog.ingested import Ingest
from aloraserve.adapters.catalog.registry import CatalogRegistry
from aloraserve.adapters.catalog.view import CatalogView
from aloraserve.adapters.management import AdapterManager, RegistrationRequest, Usage
from aloraserve.adapters.management.intake import StoreIntake
from aloraserve.adapters.sources import SourceFetcher, SourcePolicy
from support.peft_adapters import BASE, write_peft_adapter

FINGERPRINT = "base"


class NoUsage:
    """Nothing is loaded anywhere."""

    async def of(self, entry: AdapterEntry) -> Usage:
        return Usage()


class CatalogProcess:
    """One process: a gateway if it has a backup, else a replica.

    Args:
        catalog: a client of its own.
        root: of the machine: its store, and where sources are written.
        folder: what is dropped into the folder of adapters.
        backup: whether it keeps a copy of the catalog.
        limits: of the engines.
        poll_s: between looks.
    """

    def __init__(
        self,
        catalog: AdapterCatalog,
        root: Path,
        *,
        folder: AdapterRegistry | None = None,
        backup: bool = True,
        limits: AdapterLimits | None = None,
        poll_s: float = 0.5,
    ) -> None:
        self.store = AdapterStore(root / "store")
        self._root = root
        self.view = CatalogView(catalog, restores=backup)
        ingest = Ingest(self.store, FINGERPRINT, limits or AdapterLimits(frozenset(BASE.linears()), 8))
        self.catalog = CatalogRegistry(
            catalog,
            self.view,
            ingest,
            base_names=["base"],
            backup=CatalogBackup(root / "catalog.json", "test") if backup else None,
            poll_s=poll_s,
        )
        self.registry = JoinedRegistry(self.catalog, folder or StaticRegistry(base_names=["base"]), base_names=["base"])
        reader = AdapterReader(base=BASE, base_names=("base",), max_rank=8, store=self.store)
        self.manager = AdapterManager(
            catalog,
            self.view,
            StoreIntake(SourceFetcher(SourcePolicy(any_folder=True), self.store.stage), lambda: reader, self.store),
            NoUsage(),
            base=FINGERPRINT,
            base_names=("base",),
            namespace="test",
            on_change=self.catalog.catch_up,
        )

    async def begun(self, stack: AsyncExitStack) -> CatalogProcess:
        """Begin, and close with the stack."""
        await self.registry.begin()
        stack.push_async_callback(self.registry.close)
        stack.push_async_callback(self.manager.close)
        return self

    async def register(self, name: str, weight: float = 1.0, **options: Any) -> AdapterEntry:
        """Register an adapter of that content."""
        folder = write_peft_adapter(self._root / f"source-{name}", weight=weight)
        return await (await self.manager.register(RegistrationRequest(name, str(folder), **options))).finished()

    def digest(self, name: str, **options: Any) -> str:
        """Return the version that a call goes to."""
        return self.registry.resolve(name, **options).digest

    def listed(self, tenant: str | None = None) -> list[str]:
        """Return the names that a tenant may call."""
        return [served.name for served in self.registry.listed(tenant)]
