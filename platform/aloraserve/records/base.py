"""The contract of whoever keeps records for a fleet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from aloraserve.errors import ConflictError

PAGE_RECORDS = 128
"""Records in one answer to :meth:`RecordStore.changes`."""


class Record(Protocol):
    """What is known of one name; it changes as a whole."""

    @property
    def name(self) -> str:
        """The name, one record's alone."""
        ...

    @property
    def is_deleted(self) -> bool:
        """Whether nothing but the memory of what was deleted is left."""
        ...


R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class RecordKind(Generic[R]):
    """What a store keeps, and how it says that it does not.

    Args:
        label: of the kind in log records.
        part: of the platform, for messages about the server.
        key: of the server's keys; counts up when records of an earlier release cannot be read any more.
        encode: makes bytes of a record; raises ConflictError if it is too long.
        decode: makes a record of bytes; raises ValueError if they are not one.
        changed: makes the error of whoever changes a record that another has changed first.
        full: makes the error of one name too many.
        max_names: that are not deleted.
        max_deleted: names that are, and that are remembered, so that who was away learns that they are gone.
    """

    label: str
    part: str
    key: str
    encode: Callable[[R], bytes]
    decode: Callable[[bytes], R]
    changed: Callable[[str], ConflictError]
    full: Callable[[int], ConflictError]
    max_names: int
    max_deleted: int


class StoredRecord(NamedTuple, Generic[R]):
    """A record as it lies in a store.

    Args:
        record: what is known of a name.
        revision: of the store when it was put: higher than that of any change before it.
    """

    record: R
    revision: int


@dataclass(frozen=True, slots=True)
class RecordPosition:
    """How far somebody has read a store.

    Args:
        epoch: of the data, empty before there is any; lost data are another epoch.
        revision: of the last change that was read.
        floor: of the last change that nobody can read any more, when reading began.
    """

    epoch: str = ""
    revision: int = 0
    floor: int = 0


@dataclass(frozen=True, slots=True)
class RecordChanges(Generic[R]):
    """What changed behind a position.

    Args:
        records: in the order of their last change; a name stands in it once.
        position: behind them.
        restarts: whether the position asked for is not one in these data: they were lost, or are older than it, or
            changes were forgotten. The records are then the first of all, and whoever asked begins again.
        has_more: whether to ask again at once.
    """

    records: tuple[StoredRecord[R], ...]
    position: RecordPosition
    restarts: bool = False
    has_more: bool = False


class RecordStore(Protocol[R]):
    """Keeps one record for each name, for all processes of a fleet.

    A record changes as a whole, in one step, and only for whoever has seen its last change: of two that change the same
    record at once, one wins and the other learns that it did not. Who is killed, or loses the connection, between two
    calls leaves either the former record or the next, never a part of one. Each change has a revision of its own,
    higher than all before it; :meth:`changes` never passes over one, though it may show several changes of a name as
    the last. Only a record that cannot be read is passed over: it hides no other. Names that are deleted stay in it as
    such until :attr:`RecordKind.max_deleted` others went after them.

    When the backend is gone every call raises and nothing is changed, except that a :meth:`put` whose reply was lost
    may have been done: :meth:`get` says whether it was.
    """

    async def get(self, name: str) -> StoredRecord[R] | None:
        """Return the record of a name, None if there is none.

        Raises:
            DirectoryUnavailableError: the backend does not answer in time, or has what cannot be read.
        """
        ...

    async def put(self, record: R, *, expected: int) -> int:
        """Keep a record and return its revision.

        Args:
            record: of its name.
            expected: revision of the record that this one replaces, 0 if there is to be none.

        Raises:
            ConflictError: another revision is there, the store is full, or the record is too long; the class is the
                kind's own.
            DirectoryUnavailableError: the backend does not answer in time.
        """
        ...

    async def changes(self, since: RecordPosition) -> RecordChanges[R]:
        """Return what changed since a position, at most :data:`PAGE_RECORDS` records of it.

        Raises:
            DirectoryUnavailableError: the backend does not answer in time.
        """
        ...

    async def close(self) -> None:
        """Release what the store holds open."""
        ...
