"""Records in this process's memory: for tests, and for one process alone."""

from __future__ import annotations

import secrets
from typing import Generic

from aloraserve.records.base import PAGE_RECORDS, R, RecordChanges, RecordKind, RecordPosition, StoredRecord


class MemoryStore(Generic[R]):
    """See :class:`~aloraserve.records.base.RecordStore`. For one event loop.

    Args:
        kind: of the records.
    """

    def __init__(self, kind: RecordKind[R]) -> None:
        self._kind = kind
        self._epoch = ""
        self._revision = 0
        self._floor = 0
        # In the order of their last change.
        self._records: dict[str, StoredRecord[R]] = {}

    async def get(self, name: str) -> StoredRecord[R] | None:
        return self._records.get(name)

    async def put(self, record: R, *, expected: int) -> int:
        self._kind.encode(record)
        known = self._records.get(record.name)
        if (0 if known is None else known.revision) != expected:
            raise self._kind.changed(record.name)
        is_new = known is None or known.record.is_deleted
        if not record.is_deleted and is_new and self._live >= self._kind.max_names:
            raise self._kind.full(self._kind.max_names)
        self._epoch = self._epoch or secrets.token_hex(8)
        self._revision += 1
        self._records.pop(record.name, None)
        self._records[record.name] = StoredRecord(record, self._revision)
        self._forget()
        return self._revision

    async def changes(self, since: RecordPosition) -> RecordChanges[R]:
        is_known = since.epoch == self._epoch and since.revision <= self._revision
        is_known = is_known and (since.revision >= self._floor or since.floor >= self._floor)
        begin = since.revision if is_known else 0
        found = [stored for stored in self._records.values() if stored.revision > begin]
        page = tuple(found[:PAGE_RECORDS])
        has_more = len(found) > len(page)
        revision = page[-1].revision if has_more else self._revision
        position = RecordPosition(self._epoch, revision, self._floor)
        return RecordChanges(page, position, restarts=not is_known, has_more=has_more)

    async def close(self) -> None:
        pass

    @property
    def _live(self) -> int:
        return sum(not stored.record.is_deleted for stored in self._records.values())

    def _forget(self) -> None:
        deleted = [stored for stored in self._records.values() if stored.record.is_deleted]
        for stored in deleted[: max(0, len(deleted) - self._kind.max_deleted)]:
            del self._records[stored.record.name]
            self._floor = stored.revision
