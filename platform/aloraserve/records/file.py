"""Records in one file, to outlive a server without a disk; written as a whole."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic

import msgspec
import structlog

from aloraserve.records.base import R, RecordPosition, StoredRecord
from aloraserve.records.view import RecordView

WRITE_EVERY_S = 2.0

log = structlog.get_logger(__name__)


class FiledRecord(
    msgspec.Struct, Generic[R], frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A record and the revision that it had.

    Args:
        record: of one name.
        revision: in the store that it comes from.
    """

    record: R
    revision: int = 0


class RecordFile(msgspec.Struct, Generic[R], frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a file holds.

    Args:
        namespace: of the fleet that it comes from.
        epoch: of the store that it comes from.
        revision: likewise, of its last change.
        floor: likewise, of the last change that it had forgotten.
        records: by name.
    """

    namespace: str = ""
    epoch: str = ""
    revision: int = 0
    floor: int = 0
    records: tuple[FiledRecord[R], ...] = ()

    @property
    def position(self) -> RecordPosition:
        """How far the store was read when the file was made."""
        return RecordPosition(self.epoch, self.revision, self.floor)

    @property
    def stored(self) -> Iterable[StoredRecord[R]]:
        """The records with their revisions."""
        return (StoredRecord(filed.record, filed.revision) for filed in self.records)


class FileKeeper(Generic[R]):
    """Keeps a view's records in one file. Several processes of a machine may write it: their views agree.

    Args:
        path: of the file, which only its owner may read.
        label: of the kind in log records.
        content: makes the file of records and how far they were read.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        path: Path,
        label: str,
        content: Callable[[Iterable[StoredRecord[R]], RecordPosition], bytes],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self._label = label
        self._content = content
        self._clock = clock
        self._written = -1
        self._written_at = -WRITE_EVERY_S
        self._writing = asyncio.Lock()

    async def write(self, view: RecordView[R], *, at_once: bool = False) -> None:
        """Write the file if the view has changed since, at most each :data:`WRITE_EVERY_S`."""
        async with self._writing:
            is_due = at_once or self._clock() - self._written_at >= WRITE_EVERY_S
            if view.generation == self._written or not is_due:
                return
            generation, records, position = view.generation, list(view), view.position
            self._written_at = self._clock()
            try:
                await asyncio.to_thread(lambda: replace_file(self.path, self._content(records, position)))
                self._written = generation
            except OSError as error:
                log.warning(f"{self._label}_backup_not_written", cause=error.strerror)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file as a whole, for its owner alone: who reads it meanwhile reads the former one.

    Raises:
        OSError: it cannot be written; the former one is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
