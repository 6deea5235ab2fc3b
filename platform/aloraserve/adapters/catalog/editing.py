"""Changes of an adapter's record that others may change at the same time."""

from __future__ import annotations

from collections.abc import Callable

from aloraserve.adapters.catalog.base import AdapterCatalog, StoredRecord
from aloraserve.adapters.catalog.record import AdapterRecord
from aloraserve.errors import AdapterChangedError, UnknownAdapterError
from aloraserve.records.editing import edit_record


async def edit(catalog: AdapterCatalog, name: str, change: Callable[[AdapterRecord], AdapterRecord]) -> StoredRecord:
    """Change a name's record in one step and return it; one that stays as it was is not put.

    Args:
        catalog: that has it.
        name: of the adapter.
        change: returns the next record, or raises why there is none. It runs again if another call was faster.

    Raises:
        UnknownAdapterError: there is no such name.
        AdapterChangedError: others were faster again and again.
        DirectoryUnavailableError: the catalog does not answer.
    """

    def changed(record: AdapterRecord | None) -> AdapterRecord:
        if record is None or record.is_deleted:
            raise UnknownAdapterError(f"adapter {name!r} is not in the catalog")
        return change(record)

    return await edit_record(catalog, name, changed, lost=AdapterChangedError)
