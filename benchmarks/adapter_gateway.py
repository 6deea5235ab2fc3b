"""One gateway's registry and manager of adapters over a real server, without HTTP and without engines."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from aloraserve.adapters.catalog import AdapterEntry
from aloraserve.adapters.catalog.ingested import Ingest
from aloraserve.adapters.catalog.redis import RedisCatalog
from aloraserve.adapters.catalog.registry import CatalogRegistry
from aloraserve.adapters.catalog.view import CatalogView
from aloraserve.adapters.limits import AdapterLimits
from aloraserve.adapters.management import AdapterManager, Usage
from aloraserve.adapters.management.intake import StoreIntake
from aloraserve.adapters.reader import AdapterReader
from aloraserve.adapters.shape import BaseShape
from aloraserve.adapters.sources import SourceFetcher, SourcePolicy
from aloraserve.adapters.store import AdapterStore
from benchmarks.adapter_records import BASE

MAX_RANK = 64


class Nowhere:
    """See :class:`~aloraserve.adapters.management.AdapterUsage`: no replica runs here."""

    async def of(self, entry: AdapterEntry) -> Usage:
        """Return that a version is nowhere."""
        return Usage()


@dataclass(frozen=True, slots=True)
class GatewayParts:
    """What a gateway has of the catalog.

    Args:
        registry: resolves calls.
        manager: lists and changes.
    """

    registry: CatalogRegistry
    manager: AdapterManager


@contextlib.asynccontextmanager
async def opened_gateway(
    url: str, store: AdapterStore, shape: BaseShape, sources: Sequence[str] = ()
) -> AsyncIterator[GatewayParts]:
    """Open the catalog at ``url`` as a gateway does; nothing has been read.

    Args:
        url: of the server.
        store: of adapters.
        shape: of the base model.
        sources: folders that adapters may come from.
    """
    catalog = RedisCatalog.from_url(url, namespace=BASE)
    view = CatalogView(catalog)
    limits = AdapterLimits(frozenset(name.rpartition(".")[2] for name in shape.modules), MAX_RANK)
    registry = CatalogRegistry(catalog, view, Ingest(store, BASE, limits))
    reader = AdapterReader(base=shape, max_rank=MAX_RANK)
    intake = StoreIntake(SourceFetcher(SourcePolicy.of(sources), store.stage), lambda: reader, store)
    manager = AdapterManager(catalog, view, intake, Nowhere(), base=BASE, on_change=registry.catch_up)
    try:
        yield GatewayParts(registry, manager)
    finally:
        await manager.close()
        await registry.close()
