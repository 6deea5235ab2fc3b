"""A catalog in this process's memory: for tests, and for one process alone."""

from __future__ import annotations

import secrets

from aloraserve.adapters.catalog.base import (
    MAX_DELETED_NAMES,
    MAX_NAMES,
    PAGE_RECORDS,
    CatalogChanges,
    CatalogPosition,
    StoredRecord,
    encode_record,
)
from aloraserve.adapters.catalog.record import AdapterRecord
from aloraserve.errors import AdapterChangedError, AdapterConflictError


class MemoryCatalog:
    """See :class:`~aloraserve.adapters.catalog.base.AdapterCatalog`. For one event loop.

    Args:
        max_names: that are not deleted.
        max_deleted: names that are.
    """

    def __init__(self, *, max_names: int = MAX_NAMES, max_deleted: int = MAX_DELETED_NAMES) -> None:
        self._max_names = max_names
        self._max_deleted = max_deleted
        self._epoch = ""
        self._revision = 0
        self._floor = 0
        # In the order of their last change.
        self._records: dict[str, StoredRecord] = {}

    async def get(self, name: str) -> StoredRecord | None:
        return self._records.get(name)

    async def put(self, record: AdapterRecord, *, expected: int) -> int:
        encode_record(record)
        known = self._records.get(record.name)
        if (0 if known is None else known.revision) != expected:
            raise changed_meanwhile(record.name)
        if not record.is_deleted and (known is None or known.record.is_deleted) and self._live >= self._max_names:
            raise catalog_full(self._max_names)
        self._epoch = self._epoch or secrets.token_hex(8)
        self._revision += 1
        self._records.pop(record.name, None)
        self._records[record.name] = StoredRecord(record, self._revision)
        self._forget()
        return self._revision

    async def changes(self, since: CatalogPosition) -> CatalogChanges:
        is_known = since.epoch == self._epoch and since.revision <= self._revision
        is_known = is_known and (since.revision >= self._floor or since.floor >= self._floor)
        begin = since.revision if is_known else 0
        found = [stored for stored in self._records.values() if stored.revision > begin]
        page = tuple(found[:PAGE_RECORDS])
        has_more = len(found) > len(page)
        revision = page[-1].revision if has_more else self._revision
        position = CatalogPosition(self._epoch, revision, self._floor)
        return CatalogChanges(page, position, restarts=not is_known, has_more=has_more)

    async def close(self) -> None:
        pass

    @property
    def _live(self) -> int:
        return sum(not stored.record.is_deleted for stored in self._records.values())

    def _forget(self) -> None:
        deleted = [stored for stored in self._records.values() if stored.record.is_deleted]
        for stored in deleted[: max(0, len(deleted) - self._max_deleted)]:
            del self._records[stored.record.name]
            self._floor = stored.revision


def changed_meanwhile(name: str) -> AdapterChangedError:
    """Return the error of whoever changes a record that another has changed first."""
    return AdapterChangedError(f"adapter {name!r} was changed by another call meanwhile; look at it and try again")


def catalog_full(most: int) -> AdapterConflictError:
    """Return the error of one name too many."""
    return AdapterConflictError(f"the catalog has {most} adapters, the most that are accepted; delete some first")
