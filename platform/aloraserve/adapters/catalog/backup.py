"""A copy of the catalog on this machine's disk, for a server that has none and for one that lost its data."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog

from aloraserve.adapters.catalog.file import MAX_FILE_BYTES, CatalogFile, read_catalog, write_catalog
from aloraserve.adapters.catalog.record import AdapterRecord, check_record
from aloraserve.errors import InvalidRequestError
from aloraserve.records.file import FileKeeper

log = structlog.get_logger(__name__)


class CatalogBackup(FileKeeper[AdapterRecord]):
    """See :class:`~aloraserve.records.file.FileKeeper`.

    Args:
        path: of the file.
        namespace: of the fleet.
        clock: monotonic seconds.
    """

    def __init__(self, path: Path, namespace: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(path, "catalog", partial(write_catalog, namespace=namespace), clock)
        self._namespace = namespace

    def read(self) -> CatalogFile | None:
        """Return the file, None if there is none that can be read. Blocks."""
        try:
            if self.path.stat().st_size > MAX_FILE_BYTES:
                raise OSError(errno.EFBIG, "too long")
            file = read_catalog(self.path.read_bytes())
            for filed in file.records:
                check_record(filed.record)
        except FileNotFoundError:
            return None
        except (OSError, InvalidRequestError) as error:
            log.warning("catalog_backup_unreadable", cause=getattr(error, "message", type(error).__name__))
            return None
        return file if file.namespace == self._namespace else None
