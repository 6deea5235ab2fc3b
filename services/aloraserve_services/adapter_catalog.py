"""The fleet's adapter catalog as its processes open it, and what is in it before engines start."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aloraserve.adapters.base import AdapterVersion
from aloraserve.adapters.catalog.backup import CatalogBackup
from aloraserve.adapters.catalog.redis import RedisCatalog
from aloraserve.adapters.catalog.view import CatalogView
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.settings import Settings


def open_catalog(settings: Settings) -> RedisCatalog:
    """Return a client of the fleet's catalog, which lies beside the directory."""
    return RedisCatalog.from_url(settings.redis_address, namespace=settings.namespace)


def catalog_backup(settings: Settings) -> CatalogBackup:
    """Return the copy of the catalog that gateways of this machine keep."""
    return CatalogBackup(settings.state_dir / f"adapter-catalog-{settings.namespace}.json", settings.namespace)


def catalogued_versions(settings: Settings, base: str) -> list[AdapterVersion]:
    """Return the versions that engines have to have room for: in the catalog, or in its copy while that is empty.

    Args:
        settings: of the fleet.
        base: fingerprint of the base model.
    """
    if settings.redis_url is None:
        return []
    # The caller's thread may run an event loop.
    with ThreadPoolExecutor(1) as thread:
        view = thread.submit(asyncio.run, _view(settings)).result()
    return [
        AdapterVersion(entry.name, entry.kind, Path(), entry.rank, entry.targets, (), entry.version)
        for stored in view
        for entry in stored.record.live
        if entry.base == base and entry.state.is_callable and entry.rank <= settings.max_lora_rank
    ]


async def _view(settings: Settings) -> CatalogView:
    catalog = open_catalog(settings)
    view = CatalogView(catalog)
    if (file := catalog_backup(settings).read()) is not None:
        view.adopt(file.stored, file.position)
    with contextlib.suppress(DirectoryUnavailableError):
        await view.refresh()
    await catalog.close()
    return view
