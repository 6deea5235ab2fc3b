"""The live registry of what is in the catalog: calls are resolved to versions whose files the store has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import structlog

from aloraserve.adapters.base import AdapterRef, AdapterVersion, ServedName
from aloraserve.adapters.catalog.backup import CatalogBackup
from aloraserve.adapters.catalog.base import AdapterCatalog, StoredRecord
from aloraserve.adapters.catalog.editing import edit
from aloraserve.adapters.catalog.entry import AdapterState
from aloraserve.adapters.catalog.ingested import Ingest, IngestedRecord
from aloraserve.adapters.catalog.record import AdapterRecord
from aloraserve.adapters.catalog.reference import Reference
from aloraserve.adapters.catalog.view import CatalogView
from aloraserve.adapters.served import FedRegistry, Served, ServedFeed, unknown_model
from aloraserve.adapters.store import USE_EVERY_S
from aloraserve.errors import (
    AdapterConflictError,
    DirectoryUnavailableError,
    UnknownAdapterError,
    UnknownModelError,
)

POLL_S = 0.5
LOOKS_APART_S = 0.05
"""At least so long between looks for what is unknown: a client may ask for any number of names."""
FILES_RETRIED_S = 5.0
"""How often versions are looked for whose files were not in the store."""
DELETED_KEPT_S = 3600.0
"""How long the files of a deleted version stay for calls that still run with it."""
MAX_LISTS = 64
"""Lists of names that are kept, one per tenant."""

log = structlog.get_logger(__name__)


class CatalogRegistry(FedRegistry):
    """See :class:`~aloraserve.adapters.base.AdapterRegistry`; names are those of
    :class:`~aloraserve.adapters.catalog.reference.Reference`. For one event loop.

    What a call is resolved in changes in one step per adapter: a call gets the former version or the next, and neither
    fails. While the catalog does not answer, all goes on as it is.

    Args:
        catalog: of the fleet; closed by :meth:`close`.
        view: of it.
        ingest: finds out what engines can load.
        base_names: names of the base model, for messages.
        backup: file that outlives a catalog that loses its data; None for a process that keeps none.
        poll_s: seconds between looks at the catalog.
        clock: monotonic seconds.

    Attributes:
        source: the catalog.
        view: of it.
    """

    def __init__(
        self,
        catalog: AdapterCatalog,
        view: CatalogView,
        ingest: Ingest,
        *,
        base_names: Sequence[str] = (),
        backup: CatalogBackup | None = None,
        poll_s: float = POLL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = catalog
        self.view = view
        self._ingest = ingest
        self._base_names = base_names
        self._backup = backup
        self._poll_s = poll_s
        self._clock = clock
        self._records: dict[str, IngestedRecord] = {}
        self._by_key: dict[str, AdapterVersion] = {}
        self._lists: dict[str | None, tuple[ServedName, ...]] = {}
        self._feed = ServedFeed(Served())
        self._generation = -1
        self._files_tried_at = clock()
        self._looked_at = -poll_s
        self._used_at = clock()
        self._catching_up = asyncio.Lock()
        self._looking = asyncio.Lock()
        self._has_begun = False

    def knows(self, name: str) -> bool:
        """Whether an adapter's plain name is the catalog's, whoever may call it."""
        found = self._records.get(name)
        return found is not None and not found.record.is_deleted

    def has_number(self, version: AdapterVersion) -> bool:
        """Whether another version has the number that a version would have in the engines."""
        known = self._by_key.get(version.key)
        return known is not None and known.engine_name != version.engine_name

    @property
    def served(self) -> Served:
        """What is served now, in one object that never changes."""
        return self._feed.current

    def resolve(self, name: str, *, tenant: str | None = None, key: str = "") -> AdapterVersion:
        """See the contract."""
        version = self.look_up(name, tenant=tenant, key=key)
        if version is None:
            raise unknown_model(name, [*self._base_names, *(each.name for each in self.listed(tenant))])
        return version

    def look_up(self, name: str, *, tenant: str | None, key: str) -> AdapterVersion | None:
        """Return what :meth:`resolve` does, None if the tenant may call nothing of that name.

        Raises:
            RetiredAdapterError: it takes no new calls any more.
            UnknownModelError: this fleet's engines cannot load it.
        """
        reference = Reference.parse(name)
        found = None if reference is None else self._records.get(reference.name)
        if found is None or reference is None:
            return None
        try:
            entry = found.record.visible_to(tenant).called(reference, key)
        except (UnknownAdapterError, AdapterConflictError):
            return None
        version = found.versions.get(entry.version)
        if version is None:
            raise UnknownModelError(
                f"model {name[:80]!r} cannot be served now: {found.problems[entry.version]}", param="model"
            )
        return version

    def listed(self, tenant: str | None = None) -> tuple[ServedName, ...]:
        """See the contract; made once for each change."""
        known = self._lists.get(tenant)
        if known is None:
            if len(self._lists) >= MAX_LISTS:
                self._lists.clear()
            names = (name for name in sorted(self._records))
            known = self._lists[tenant] = tuple(each for name in names for each in self._records[name].listed(tenant))
        return known

    def sees(self, tenant: str | None, name: str) -> bool:
        """See the contract."""
        found = self._records.get(name)
        return found is None or any(entry.is_visible_to(tenant) for entry in found.record.versions)

    async def begin(self) -> None:
        """See the contract; what an earlier run knew is served while the catalog does not answer."""
        if self._has_begun:
            return
        self._has_begun = True
        if self._backup is not None and (file := await asyncio.to_thread(self._backup.read)) is not None:
            self.view.adopt(file.stored, file.position)
        await self.refresh()

    async def find(self, ref: AdapterRef) -> AdapterVersion | None:
        """See the contract; one that is not known here is looked for in the catalog."""
        if (found := await self._found(ref)) is None:
            await self.look_again()
            found = await self._found(ref)
        return found

    async def look_again(self) -> None:
        """See the contract; who asks while a look is under way may need the next one."""
        asked_at = self._clock()
        async with self._looking:
            is_away = not self.view.is_reachable and self._clock() - self._looked_at < self._poll_s
            if self._looked_at < asked_at and not is_away:
                await asyncio.sleep(self._looked_at + LOOKS_APART_S - self._clock())
                await self.refresh()

    async def run(self) -> None:
        """See the contract."""
        while True:
            await asyncio.sleep(self._poll_s)
            await self.refresh()
            await self._keep_files()

    async def refresh(self) -> None:
        """Look at the catalog now, and serve what it has; while it does not answer, what is known here."""
        self._looked_at = self._clock()
        await self.view.look()
        await self.catch_up()

    async def catch_up(self) -> None:
        """Serve what the view has by now."""
        async with self._catching_up:
            generation, changed = self.view.generation, self._changed()
            gone = [name for name in self._records if self.view.get(name) is None]
            if changed or gone:
                kept = {name: each for name, each in self._records.items() if name not in gone}
                # On another thread: ten thousand adapters take it 20 ms.
                self._take(*await asyncio.to_thread(_prepared, kept, changed, self._ingest))
            self._generation = generation
            if self._backup is not None and len(self.view):
                await self._backup.write(self.view)

    def _take(self, records: dict[str, IngestedRecord], served: Served, by_key: dict[str, AdapterVersion]) -> None:
        """Serve these from now on, in one step."""
        self._records, self._by_key = records, by_key
        self._lists.clear()
        self._feed.publish(served)

    async def note_loaded(self, keys: Mapping[str, str]) -> None:
        """Note in the catalog which versions were loaded for the first time; one that is away is not waited for.

        Args:
            keys: of versions that replicas have loaded, each with the label of one of them.
        """
        try:
            for key in keys.keys() & self._by_key.keys():
                version = self._by_key[key]
                entry = self._records[version.name].record.entry(version.digest)
                if entry is not None and entry.state is AdapterState.AVAILABLE:
                    change = partial(_loaded, version=version.digest, replica=keys[key])
                    self.view.take(*await edit(self.source, version.name, change))
        except (DirectoryUnavailableError, UnknownAdapterError, AdapterConflictError) as error:
            log.info("adapter_loads_not_noted", cause=error.message)

    async def close(self) -> None:
        """See the contract."""
        if self._backup is not None and len(self.view):
            await self._backup.write(self.view, at_once=True)
        await self.source.close()

    def _changed(self) -> list[StoredRecord]:
        """Return the records that are to be ingested, or again because files were missing."""
        now = self._clock()
        is_time = now - self._files_tried_at >= FILES_RETRIED_S
        if is_time:
            self._files_tried_at = now
        elif self._generation == self.view.generation:
            return []
        return [
            stored
            for stored in self.view
            if (known := self._records.get(stored.record.name)) is None
            or known.record is not stored.record
            or (is_time and known.lacks_files)
        ]

    async def _keep_files(self) -> None:
        """Keep the files of versions that were deleted lately, with which calls may still run, and have others go."""
        if self._clock() - self._used_at < USE_EVERY_S:
            return
        self._used_at, oldest = self._clock(), time.time() - DELETED_KEPT_S
        digests = {
            entry.version
            for stored in self.view
            for entry in stored.record.versions
            if entry.state is AdapterState.DELETED and entry.history[-1].at > oldest
        }
        if self._backup is not None and self.view.is_reachable and len(self.view):
            live = {entry.version for stored in self.view for entry in stored.record.live}
            await asyncio.to_thread(self._ingest.store.refer_only, live)
        await asyncio.to_thread(self._ingest.store.use, digests)

    async def _found(self, ref: AdapterRef) -> AdapterVersion | None:
        known = self._records.get(ref.name)
        if known is None:
            return None
        if (version := known.versions.get(ref.digest)) is not None:
            return version
        # Retired or deleted, while calls may still run with it.
        entry = known.record.entry(ref.digest)
        path = None if entry is None else await asyncio.to_thread(self._ingest.store.get, ref.digest)
        return None if entry is None or path is None else entry.at(path)


def _prepared(
    known: Mapping[str, IngestedRecord], changed: Sequence[StoredRecord], ingest: Ingest
) -> tuple[dict[str, IngestedRecord], Served, dict[str, AdapterVersion]]:
    records = {**known, **{stored.record.name: ingest(stored) for stored in changed}}
    by_key = {key: version for each in records.values() for key, version in each.by_key.items()}
    served = Served.of(
        (version for each in records.values() for version in each.served),
        (refused for each in records.values() for refused in each.refused),
    )
    return records, served, by_key


def _loaded(record: AdapterRecord, *, version: str, replica: str) -> AdapterRecord:
    entry = record.entry(version)
    if entry is None or entry.state is not AdapterState.AVAILABLE:
        return record
    return record.moved([version], AdapterState.LOADED, time.time(), f"loaded by {replica}")
