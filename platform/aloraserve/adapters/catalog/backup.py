"""A copy of the catalog on this machine's disk, for a server that has none and for one that lost its data."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from aloraserve.adapters.catalog.file import MAX_FILE_BYTES, CatalogFile, read_catalog, write_catalog
from aloraserve.adapters.catalog.record import check_record
from aloraserve.adapters.catalog.view import CatalogView
from aloraserve.errors import InvalidRequestError

WRITE_EVERY_S = 2.0

log = structlog.get_logger(__name__)


class CatalogBackup:
    """One file, replaced as a whole. Several processes of a machine may write it: their views agree.

    Args:
        path: of the file.
        namespace: of the fleet.
        clock: monotonic seconds.
    """

    def __init__(self, path: Path, namespace: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._namespace = namespace
        self._clock = clock
        self._written = -1
        self._written_at = -WRITE_EVERY_S
        self._writing = asyncio.Lock()

    def read(self) -> CatalogFile | None:
        """Return the file, None if there is none that can be read. Blocks."""
        try:
            if self._path.stat().st_size > MAX_FILE_BYTES:
                raise OSError(errno.EFBIG, "too long")
            file = read_catalog(self._path.read_bytes())
            for filed in file.records:
                check_record(filed.record)
        except FileNotFoundError:
            return None
        except (OSError, InvalidRequestError) as error:
            log.warning("catalog_backup_unreadable", cause=getattr(error, "message", type(error).__name__))
            return None
        return file if file.namespace == self._namespace else None

    async def write(self, view: CatalogView, *, at_once: bool = False) -> None:
        """Write the file if the view has changed since, at most each :data:`WRITE_EVERY_S`."""
        async with self._writing:
            is_due = at_once or self._clock() - self._written_at >= WRITE_EVERY_S
            if view.generation == self._written or not is_due:
                return
            generation, records, position = view.generation, list(view), view.position
            self._written_at = self._clock()
            try:
                await asyncio.to_thread(lambda: self._replace(write_catalog(records, position, self._namespace)))
                self._written = generation
            except OSError as error:
                log.warning("catalog_backup_not_written", cause=error.strerror)

    def _replace(self, content: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".catalog-", dir=self._path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self._path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
