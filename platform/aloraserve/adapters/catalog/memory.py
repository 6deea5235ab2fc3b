"""A catalog in this process's memory: for tests, and for one process alone."""

from __future__ import annotations

from aloraserve.adapters.catalog.base import MAX_DELETED_NAMES, MAX_NAMES, catalog_kind
from aloraserve.adapters.catalog.record import AdapterRecord
from aloraserve.records.memory import MemoryStore


class MemoryCatalog(MemoryStore[AdapterRecord]):
    """See :class:`~aloraserve.adapters.catalog.base.AdapterCatalog`. For one event loop.

    Args:
        max_names: that are not deleted.
        max_deleted: names that are.
    """

    def __init__(self, *, max_names: int = MAX_NAMES, max_deleted: int = MAX_DELETED_NAMES) -> None:
        super().__init__(catalog_kind(max_names, max_deleted))
