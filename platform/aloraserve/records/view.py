"""This process's copy of a store's records: whoever asks it waits for nothing."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Generic

import structlog

from aloraserve.errors import ConflictError, DirectoryUnavailableError
from aloraserve.records.base import R, RecordChanges, RecordPosition, RecordStore, StoredRecord

NEVER_READ = "never read"
"""No store's epoch: what was known before cannot be there by it."""

log = structlog.get_logger(__name__)


class RecordView(Generic[R]):
    """Follows a store by :meth:`refresh`. For one event loop.

    The store's data may be lost or go back in time: a server that was emptied, a failover to a replica that lagged. A
    view then keeps what it knows and the store does not, and puts it back if it ``restores``: what was registered is
    never forgotten in silence. Several views that put back at once agree: the first to put a name wins, and a name that
    was deleted since is there as deleted.

    Args:
        store: of the fleet; closed by whoever opened it.
        label: of the kind in log records.
        restores: whether to put back what was lost.

    Attributes:
        position: how far the store was read.
        generation: counts changes of what is here.
        is_reachable: whether the store answered :meth:`look` last.
    """

    def __init__(self, store: RecordStore[R], label: str, *, restores: bool = False) -> None:
        self.position = RecordPosition()
        self.generation = 0
        self.is_reachable = True
        self._store = store
        self._label = label
        self._restores = restores
        self._records: dict[str, StoredRecord[R]] = {}
        self._names: list[str] = []
        self._lost: set[str] = set()
        self._highest = 0
        self._refreshing = asyncio.Lock()

    def __len__(self) -> int:
        """How many names are here."""
        return len(self._records)

    def __iter__(self) -> Iterator[StoredRecord[R]]:
        """All records, by name."""
        return (self._records[name] for name in self._names)

    def get(self, name: str) -> StoredRecord[R] | None:
        """Return the record of a name, None if there is none."""
        return self._records.get(name)

    async def look(self) -> None:
        """Refresh; while the store does not answer, what is here stays, and the log says so once."""
        try:
            await self.refresh()
        except DirectoryUnavailableError as error:
            if self.is_reachable:
                log.warning(f"{self._label}_unreachable", cause=error.message)
            self.is_reachable = False
            return
        if not self.is_reachable:
            log.info(f"{self._label}_reachable")
        self.is_reachable = True

    async def refresh(self) -> bool:
        """Read what changed; return whether anything did.

        Raises:
            DirectoryUnavailableError: the store does not answer; what is here stays.
        """
        async with self._refreshing:
            before = self.generation
            changes = await self._store.changes(self.position)
            if changes.restarts:
                await self._begin_again(changes)
            else:
                await self._go_on(changes)
            if self.position.revision < self._highest:
                # What this process has put itself is not there any more.
                await self._begin_again(await self._store.changes(RecordPosition()))
            if self._lost and self._restores:
                await self._put_back()
            return self.generation != before

    def take(self, record: R, revision: int) -> None:
        """Take a record that this process has put, before the next refresh shows it."""
        known = self._records.get(record.name)
        if known is None:
            bisect.insort(self._names, record.name)
        elif known.revision >= revision:
            return
        self._lost.discard(record.name)
        self._highest = max(self._highest, revision)
        self._records[record.name] = StoredRecord(record, revision)
        self.generation += 1

    def adopt(self, records: Iterable[StoredRecord[R]], position: RecordPosition) -> None:
        """Begin with what an earlier view knew; the next refresh finds out whether it was lost meanwhile."""
        known = {stored.record.name: stored for stored in records}
        if not position.epoch:
            # That view had put what it knew and read nothing since: a store that is empty is another one.
            position = replace(position, epoch=NEVER_READ)
        self._replace(known, position)

    async def _go_on(self, changes: RecordChanges[R]) -> None:
        while True:
            for stored in changes.records:
                self.take(*stored)
            self.position = changes.position
            if not changes.has_more:
                return
            changes = await self._store.changes(self.position)
            if changes.restarts:
                await self._begin_again(changes)
                return

    async def _begin_again(self, changes: RecordChanges[R]) -> None:
        """Read everything; have here what is there, and what was only here."""
        found = {stored.record.name: stored for stored in changes.records}
        while changes.has_more:
            changes = await self._store.changes(changes.position)
            if changes.restarts:
                found = {}
            found |= {stored.record.name: stored for stored in changes.records}
        lost = self._only_here(found, changes.position)
        self._replace(found | lost, changes.position)
        self._lost = set(lost)
        if lost:
            log.warning(f"{self._label}_lost", names=len(lost), restores=self._restores)

    def _only_here(self, found: dict[str, StoredRecord[R]], position: RecordPosition) -> dict[str, StoredRecord[R]]:
        """Return what the store has lost, each with the revision that is there in its place."""
        went_back = position.epoch == self.position.epoch
        if went_back and position.revision >= self._highest:
            # Nothing was lost: it has forgotten names that were deleted while this process was away.
            return {}
        return {
            name: StoredRecord(stored.record, found[name].revision if name in found else 0)
            for name, stored in self._records.items()
            if name not in found or (went_back and stored.revision > position.revision)
        }

    def _replace(self, records: dict[str, StoredRecord[R]], position: RecordPosition) -> None:
        self._records, self._names, self.position = records, sorted(records), position
        self._highest = position.revision
        self.generation += 1

    async def _put_back(self) -> None:
        restored = 0
        for name in sorted(self._lost):
            record, revision = self._records[name]
            try:
                self.take(record, await self._store.put(record, expected=revision))
                restored += 1
            except ConflictError:
                # Somebody else put it back; the next refresh shows it.
                self._lost.discard(name)
        log.warning(f"{self._label}_restored", names=restored)
