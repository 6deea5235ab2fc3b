"""A view's records on this machine's disk, for a server that has no disk and for one that lost its data."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic

import msgspec
import structlog

from aloraserve.records.base import R, RecordPosition, StoredRecord
from aloraserve.records.file import FiledRecord, FileKeeper, RecordFile

MAX_FILE_BYTES = 128 << 20

log = structlog.get_logger(__name__)


class RecordBackup(FileKeeper[R], Generic[R]):
    """See the module's docstring.

    Args:
        path: of the file.
        label: of the kind in log records.
        namespace: of the fleet.
        kind: of the file: a subclass of :class:`~aloraserve.records.file.RecordFile`.
        marks: fields of it that say what the file is.
        check: raises ValueError for a record that this release would not write.
    """

    def __init__(
        self,
        path: Path,
        label: str,
        namespace: str,
        kind: type[RecordFile[R]],
        marks: dict[str, Any],
        check: Callable[[R], None],
    ) -> None:
        super().__init__(path, label, self._bytes)
        self._namespace = namespace
        self._kind = kind
        self._marks = marks
        self._check = check
        self._decoder = msgspec.json.Decoder(kind)

    def read(self) -> RecordFile[R] | None:
        """Return the file, None if there is none that can be read. Blocks."""
        try:
            if self.path.stat().st_size > MAX_FILE_BYTES:
                raise OSError(errno.EFBIG, "too long")
            file = self._decoder.decode(self.path.read_bytes())
            for filed in file.records:
                self._check(filed.record)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            log.warning(f"{self._label}_backup_unreadable", cause=type(error).__name__)
            return None
        return file if file.namespace == self._namespace else None

    def _bytes(self, records: Iterable[StoredRecord[R]], position: RecordPosition) -> bytes:
        filed = tuple(FiledRecord(record=record, revision=revision) for record, revision in records)
        file = self._kind(
            **self._marks,
            namespace=self._namespace,
            epoch=position.epoch,
            revision=position.revision,
            floor=position.floor,
            records=filed,
        )
        return msgspec.json.encode(file)
