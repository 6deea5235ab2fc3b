"""Changes of a record that others may change at the same time."""

from __future__ import annotations

from collections.abc import Callable

from aloraserve.errors import ConflictError
from aloraserve.records.base import R, RecordStore, StoredRecord

MAX_TRIES = 8


async def edit_record(
    store: RecordStore[R], name: str, change: Callable[[R | None], R], *, lost: type[ConflictError] = ConflictError
) -> StoredRecord[R]:
    """Change a name's record in one step and return it; one that stays as it was is not put.

    Args:
        store: that has it.
        name: of the record.
        change: makes the next record of the present one, None if there is none, or raises why there is not to be one.
            It runs again if another call was faster.
        lost: the error of a call that was not first.

    Raises:
        ConflictError: others were faster again and again, or the record does not fit.
        DirectoryUnavailableError: the store does not answer.
    """
    for tried in range(MAX_TRIES):
        stored = await store.get(name)
        known = None if stored is None else stored.record
        record = change(known)
        if stored is not None and record == known:
            return stored
        try:
            return StoredRecord(record, await store.put(record, expected=0 if stored is None else stored.revision))
        except lost:
            if tried + 1 == MAX_TRIES:
                raise
    raise AssertionError("unreachable")
