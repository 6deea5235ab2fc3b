"""Files of versions that the catalog does not have any more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from aloraserve.adapters.catalog.view import CatalogView
from aloraserve.adapters.management.base import AdapterIntake
from aloraserve.errors import DirectoryUnavailableError


async def release_unused(view: CatalogView, intake: AdapterIntake, versions: Iterable[str]) -> None:
    """Have the files of these versions go, except of those that some name still has.

    While the catalog does not answer nothing goes: it may have what this process does not know.
    """
    try:
        await view.refresh()
    except DirectoryUnavailableError:
        return
    for version in versions:
        if not view.has_live(version):
            await asyncio.to_thread(intake.release, version)
