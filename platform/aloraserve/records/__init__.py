"""Records of a fleet by name, such as adapters or tenants: kept in one place, followed by every process in memory."""

from aloraserve.records.base import (
    PAGE_RECORDS,
    Record,
    RecordChanges,
    RecordKind,
    RecordPosition,
    RecordStore,
    StoredRecord,
)
from aloraserve.records.view import RecordView

__all__ = [
    "PAGE_RECORDS",
    "Record",
    "RecordChanges",
    "RecordKind",
    "RecordPosition",
    "RecordStore",
    "RecordView",
    "StoredRecord",
]
