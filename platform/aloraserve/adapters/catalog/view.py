"""This process's copy of the catalog: calls are resolved and lists are made in it, without I/O."""

from __future__ import annotations

import bisect
from collections.abc import Iterator

from aloraserve.adapters.catalog.base import AdapterCatalog
from aloraserve.adapters.catalog.entry import AdapterEntry
from aloraserve.adapters.catalog.query import MAX_LIMIT, EntryPage, EntryQuery
from aloraserve.adapters.catalog.record import AdapterRecord
from aloraserve.errors import InvalidRequestError
from aloraserve.records import RecordView


class CatalogView(RecordView[AdapterRecord]):
    """See :class:`~aloraserve.records.view.RecordView`.

    Args:
        catalog: of the fleet; closed by whoever opened it.
        restores: whether to put back what was lost.
    """

    def __init__(self, catalog: AdapterCatalog, *, restores: bool = False) -> None:
        super().__init__(catalog, "catalog", restores=restores)

    def has_live(self, version: str) -> bool:
        """Whether a version of that content is here and not deleted, under whatever name."""
        return any(entry.version == version for stored in self for entry in stored.record.live)

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
