"""The contract of whoever keeps the catalog for a fleet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec

from aloraserve.adapters.catalog.record import AdapterRecord
from aloraserve.errors import AdapterConflictError

MAX_NAMES = 20_000
"""Names in a catalog, those that are deleted aside."""
MAX_DELETED_NAMES = 1024
"""Names without a live version that are remembered, so that who was away learns that they are gone."""
MAX_RECORD_BYTES = 1 << 19
PAGE_RECORDS = 128
"""Records in one answer to :meth:`AdapterCatalog.changes`."""

_DECODER = msgspec.json.Decoder(AdapterRecord)


class StoredRecord(NamedTuple):
    """A record as it lies in a catalog.

    Args:
        record: what is known of a name.
        revision: of the catalog when it was put: higher than that of any change before it.
    """

    record: AdapterRecord
    revision: int


@dataclass(frozen=True, slots=True)
class CatalogPosition:
    """How far somebody has read a catalog.

    Args:
        epoch: of the data, empty before there is any; lost data are another epoch.
        revision: of the last change that was read.
        floor: of the last change that nobody can read any more, when reading began.
    """

    epoch: str = ""
    revision: int = 0
    floor: int = 0


@dataclass(frozen=True, slots=True)
class CatalogChanges:
    """What changed behind a position.

    Args:
        records: in the order of their last change; a name stands in it once.
        position: behind them.
        restarts: whether the position asked for is not one in these data: they were lost, or are older than it, or
            changes were forgotten. The records are then the first of all, and whoever asked begins again.
        has_more: whether to ask again at once.
    """

    records: tuple[StoredRecord, ...]
    position: CatalogPosition
    restarts: bool = False
    has_more: bool = False


class AdapterCatalog(Protocol):
    """Keeps one record for each adapter's name, for all processes of a fleet.

    A record changes as a whole, in one step, and only for whoever has seen its last change: of two that change the same
    record at once, one wins and the other learns that it did not. Who is killed, or loses the connection, between two
    calls leaves either the former record or the next, never a part of one. Each change has a revision of its own,
    higher than all before it; :meth:`changes` never passes over one, though it may show several changes of a name as
    the last. Only a record that cannot be read is passed over: it hides no other. Names whose every version is deleted
    stay in it as such until :data:`MAX_DELETED_NAMES` others went after them.

    When the backend is gone every call raises and nothing is changed, except that a :meth:`put` whose reply was lost
    may have been done: :meth:`get` says whether it was.
    """

    async def get(self, name: str) -> StoredRecord | None:
        """Return the record of a name, None if there is none.

        Raises:
            DirectoryUnavailableError: the backend does not answer in time, or has what cannot be read.
        """
        ...

    async def put(self, record: AdapterRecord, *, expected: int) -> int:
        """Keep a record and return its revision.

        Args:
            record: of its name.
            expected: revision of the record that this one replaces, 0 if there is to be none.

        Raises:
            AdapterChangedError: another revision is there.
            AdapterConflictError: the catalog is full, or the record is too long.
            DirectoryUnavailableError: the backend does not answer in time.
        """
        ...

    async def changes(self, since: CatalogPosition) -> CatalogChanges:
        """Return what changed since a position, at most :data:`PAGE_RECORDS` records of it.

        Raises:
            DirectoryUnavailableError: the backend does not answer in time.
        """
        ...

    async def close(self) -> None:
        """Release what the catalog holds open."""
        ...


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


def decode_record(content: bytes) -> AdapterRecord:
    """Return the record that JSON is.

    Raises:
        ValueError: it is not one.
    """
    return _DECODER.decode(content)
