"""The catalog: the store of adapters' records, kept by one of those in :mod:`aloraserve.records`."""

from __future__ import annotations

from typing import Protocol

import msgspec

from aloraserve.adapters.catalog.record import AdapterRecord
from aloraserve.errors import AdapterChangedError, AdapterConflictError
from aloraserve.records import RecordChanges, RecordKind, RecordPosition, RecordStore
from aloraserve.records import StoredRecord as AnyStoredRecord

MAX_NAMES = 20_000
"""Names in a catalog, those that are deleted aside."""
MAX_DELETED_NAMES = 1024
"""Names without a live version that are remembered, so that who was away learns that they are gone."""
MAX_RECORD_BYTES = 1 << 19

StoredRecord = AnyStoredRecord[AdapterRecord]
CatalogChanges = RecordChanges[AdapterRecord]
CatalogPosition = RecordPosition
_DECODER = msgspec.json.Decoder(AdapterRecord)


class AdapterCatalog(RecordStore[AdapterRecord], Protocol):
    """Keeps one record for each adapter's name; see :class:`~aloraserve.records.base.RecordStore`."""


def catalog_kind(max_names: int = MAX_NAMES, max_deleted: int = MAX_DELETED_NAMES) -> RecordKind[AdapterRecord]:
    """Return what makes a store a catalog.

    Args:
        max_names: that are not deleted.
        max_deleted: names that are.
    """
    return RecordKind(
        label="catalog",
        part="adapter catalog",
        key="catalog1",
        encode=encode_record,
        decode=_DECODER.decode,
        changed=_changed_meanwhile,
        full=_catalog_full,
        max_names=max_names,
        max_deleted=max_deleted,
    )


def encode_record(record: AdapterRecord) -> bytes:
    """Return a record as JSON.

    Raises:
        AdapterConflictError: it is too long.
    """
    content = msgspec.json.encode(record)
    if len(content) > MAX_RECORD_BYTES:
        raise AdapterConflictError(
            f"adapter {record.name!r} needs {len(content)} bytes in the catalog; {MAX_RECORD_BYTES} are accepted: "
            "delete versions of it, or give it fewer labels"
        )
    return content


def _changed_meanwhile(name: str) -> AdapterChangedError:
    return AdapterChangedError(f"adapter {name!r} was changed by another call meanwhile; look at it and try again")


def _catalog_full(most: int) -> AdapterConflictError:
    return AdapterConflictError(f"the catalog has {most} adapters, the most that are accepted; delete some first")
