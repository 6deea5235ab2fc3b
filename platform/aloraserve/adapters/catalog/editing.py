"""Changes of a record that others may change at the same time."""

from __future__ import annotations

from collections.abc import Callable

from aloraserve.adapters.catalog.base import AdapterCatalog, StoredRecord
from aloraserve.adapters.catalog.record import AdapterRecord
from aloraserve.errors import AdapterChangedError, UnknownAdapterError

MAX_TRIES = 8


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
    for _ in range(MAX_TRIES):
        stored = await catalog.get(name)
        if stored is None or stored.record.is_deleted:
            break
        record = change(stored.record)
        if record == stored.record:
            return stored
        try:
            return StoredRecord(record, await catalog.put(record, expected=stored.revision))
        except AdapterChangedError as error:
            lost = error
    else:
        raise lost
    raise UnknownAdapterError(f"adapter {name!r} is not in the catalog")
