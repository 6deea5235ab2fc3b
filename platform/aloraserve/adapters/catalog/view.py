"""This process's copy of the catalog: calls are resolved and lists are made in it, without I/O."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Iterable, Iterator

import structlog

from aloraserve.adapters.catalog.base import AdapterCatalog, CatalogChanges, CatalogPosition, StoredRecord
from aloraserve.adapters.catalog.entry import AdapterEntry
from aloraserve.adapters.catalog.query import MAX_LIMIT, EntryPage, EntryQuery
from aloraserve.adapters.catalog.record import AdapterRecord
from aloraserve.errors import AdapterConflictError, InvalidRequestError

log = structlog.get_logger(__name__)


class CatalogView:
    """Follows a catalog by :meth:`refresh`. For one event loop.

    The catalog's data may be lost or go back in time: a server that was emptied, a failover to a replica that lagged.
    A view then keeps what it knows and the catalog does not, and puts it back if it ``restores``: what was registered
    is never forgotten in silence. Several views that put back at once agree: the first to put a name wins, and a name
    that was deleted since is there as deleted.

    Args:
        catalog: of the fleet; closed by whoever opened it.
        restores: whether to put back what was lost.

    Attributes:
        position: how far the catalog was read.
        generation: counts changes of what is here.
    """

    def __init__(self, catalog: AdapterCatalog, *, restores: bool = False) -> None:
        self.position = CatalogPosition()
        self.generation = 0
        self._catalog = catalog
        self._restores = restores
        self._records: dict[str, StoredRecord] = {}
        self._names: list[str] = []
        self._lost: set[str] = set()
        self._highest = 0
        self._refreshing = asyncio.Lock()

    def __len__(self) -> int:
        """How many names are here."""
        return len(self._records)

    def __iter__(self) -> Iterator[StoredRecord]:
        """All records, by name."""
        return (self._records[name] for name in self._names)

    def get(self, name: str) -> StoredRecord | None:
        """Return the record of a name, None if there is none."""
        return self._records.get(name)

    def has_live(self, version: str) -> bool:
        """Whether a version of that content is here and not deleted, under whatever name."""
        return any(entry.version == version for stored in self for entry in stored.record.live)

    async def refresh(self) -> bool:
        """Read what changed; return whether anything did.

        Raises:
            DirectoryUnavailableError: the catalog does not answer; what is here stays.
        """
        async with self._refreshing:
            before = self.generation
            changes = await self._catalog.changes(self.position)
            if changes.restarts:
                await self._begin_again(changes)
            else:
                await self._go_on(changes)
            if self.position.revision < self._highest:
                # What this process has put itself is not there any more.
                await self._begin_again(await self._catalog.changes(CatalogPosition()))
            if self._lost and self._restores:
                await self._put_back()
            return self.generation != before

    def take(self, record: AdapterRecord, revision: int) -> None:
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

    def adopt(self, records: Iterable[StoredRecord], position: CatalogPosition) -> None:
        """Begin with what an earlier view knew; the next refresh finds out whether it was lost meanwhile."""
        self._replace({stored.record.name: stored for stored in records}, position)

    def page(self, query: EntryQuery) -> EntryPage:
        """Return a page of entries.

        Raises:
            InvalidRequestError: its limit or cursor is not accepted.
        """
        if not 1 <= query.limit <= MAX_LIMIT:
            raise InvalidRequestError(f"limit is {query.limit}; 1 to {MAX_LIMIT} are accepted", param="limit")
        found: list[AdapterEntry] = []
        for entry in self._behind(query.prefix, query.cursor):
            if query.fits(entry):
                if len(found) == query.limit:
                    return EntryPage(found, f"{found[-1].name}@{found[-1].version}")
                found.append(entry)
        return EntryPage(found)

    def _behind(self, prefix: str, cursor: str) -> Iterator[AdapterEntry]:
        """Yield the entries of names with a prefix behind the one that a cursor names."""
        begin, _, last = cursor.partition("@")
        if cursor and not (begin and last):
            raise InvalidRequestError(f"after is {cursor[:80]!r}; the 'next' of a page is accepted", param="after")
        for name in self._names[bisect.bisect_left(self._names, max(prefix, begin)) :]:
            if not name.startswith(prefix):
                return
            versions = self._records[name].record.versions
            if name == begin:
                known = next((index for index, entry in enumerate(versions) if entry.version == last), -1)
                versions = versions[known + 1 :]
            yield from versions

    async def _go_on(self, changes: CatalogChanges) -> None:
        while True:
            for stored in changes.records:
                self.take(*stored)
            self.position = changes.position
            if not changes.has_more:
                return
            changes = await self._catalog.changes(self.position)
            if changes.restarts:
                await self._begin_again(changes)
                return

    async def _begin_again(self, changes: CatalogChanges) -> None:
        """Read everything; have here what is there, and what was only here."""
        found = {stored.record.name: stored for stored in changes.records}
        while changes.has_more:
            changes = await self._catalog.changes(changes.position)
            if changes.restarts:
                found = {}
            found |= {stored.record.name: stored for stored in changes.records}
        lost = self._only_here(found, changes.position)
        self._replace(found | lost, changes.position)
        self._lost = set(lost)
        if lost:
            log.warning("catalog_lost", names=len(lost), restores=self._restores)

    def _only_here(self, found: dict[str, StoredRecord], position: CatalogPosition) -> dict[str, StoredRecord]:
        """Return what the catalog has lost, each with the revision that is there in its place."""
        went_back = position.epoch == self.position.epoch
        if went_back and position.revision >= self._highest:
            # Nothing was lost: it has forgotten names that were deleted while this process was away.
            return {}
        return {
            name: StoredRecord(stored.record, found[name].revision if name in found else 0)
            for name, stored in self._records.items()
            if name not in found or (went_back and stored.revision > position.revision)
        }

    def _replace(self, records: dict[str, StoredRecord], position: CatalogPosition) -> None:
        self._records, self._names, self.position = records, sorted(records), position
        self._highest = position.revision
        self.generation += 1

    async def _put_back(self) -> None:
        restored = 0
        for name in sorted(self._lost):
            record, revision = self._records[name]
            try:
                self.take(record, await self._catalog.put(record, expected=revision))
                restored += 1
            except AdapterConflictError:
                # Somebody else put it back; the next refresh shows it.
                self._lost.discard(name)
        log.warning("catalog_restored", names=restored)
