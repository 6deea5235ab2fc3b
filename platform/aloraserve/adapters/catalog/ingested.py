"""Records as a registry serves them: each with the versions that engines can load, and why others cannot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

from aloraserve.adapters.base import AdapterVersion, RefusedAdapter, ServedName
from aloraserve.adapters.catalog.alias import CURRENT
from aloraserve.adapters.catalog.base import StoredRecord
from aloraserve.adapters.catalog.entry import AdapterEntry
from aloraserve.adapters.catalog.record import AdapterRecord
from aloraserve.adapters.limits import AdapterLimits
from aloraserve.adapters.store import AdapterStore
from aloraserve.errors import InvalidAdapterError

NO_ROOM = (
    "the engines were started without room for adapters; set adapters_dir, or reserve_modules and reserve_rank, and "
    "restart the platform"
)


@dataclass(frozen=True)
class IngestedRecord:
    """A record and what engines can load of it.

    Args:
        record: of one name.
        revision: of the record.
        versions: by digest, those that take calls.
        problems: by digest, why those that should cannot.
        lacks_files: whether that is because files are not in the store here, or not yet.
    """

    record: AdapterRecord
    revision: int
    versions: dict[str, AdapterVersion]
    problems: dict[str, str] = field(default_factory=dict)
    lacks_files: bool = False

    @cached_property
    def by_key(self) -> dict[str, AdapterVersion]:
        """The versions by the keys that replicas publish, which stand for their numbers in engines."""
        return {version.key: version for version in self.versions.values()}

    @cached_property
    def served(self) -> tuple[AdapterVersion, ...]:
        """Versions that an alias points to."""
        return tuple(self.versions[entry.version] for entry in self.record.served if entry.version in self.versions)

    @cached_property
    def refused(self) -> tuple[RefusedAdapter, ...]:
        """What an alias points to and cannot be loaded: the name, or the version if another one is served."""
        bad = (entry for entry in self.record.served if entry.version in self.problems)
        return tuple(
            RefusedAdapter(entry.shown if self.served else entry.name, self.problems[entry.version]) for entry in bad
        )

    def listed(self, tenant: str | None) -> tuple[ServedName, ...]:
        """Return the names that a tenant may call: the plain one and its aliases."""
        return self._owners_names if tenant == self.record.owner else self._others_names

    def prepare(self) -> Self:
        """Work out what is asked for later, here and now: ten thousand records at once would hold up an event loop."""
        _ = self.by_key, self.served, self.refused, self._owners_names, self._others_names
        return self

    @cached_property
    def _owners_names(self) -> tuple[ServedName, ...]:
        return tuple(self._names(self.record.visible_to(self.record.owner)))

    @cached_property
    def _others_names(self) -> tuple[ServedName, ...]:
        return tuple(self._names(self.record.public))

    def _names(self, record: AdapterRecord) -> Iterator[ServedName]:
        seen = {entry.version: entry for entry in record.served if entry.version in self.versions}
        for alias in sorted(record.aliases, key=lambda alias: (alias != CURRENT, alias)):
            version = next((found for found in record.aliases[alias].versions if found in seen), None)
            if version is None:
                continue
            name = record.name if alias == CURRENT else f"{record.name}@{alias}"
            root = record.name if alias == CURRENT else seen[version].shown
            yield ServedName(name, root, self.versions[version])


@dataclass(frozen=True)
class Ingest:
    """Finds out which versions of a record this fleet's engines can load. From any thread.

    Args:
        store: of adapters' files.
        base: fingerprint of the base model.
        limits: what the engines have room for, None for engines without adapters.
    """

    store: AdapterStore
    base: str
    limits: AdapterLimits | None

    def __call__(self, stored: StoredRecord) -> IngestedRecord:
        """Return a record with what can be loaded of it; reads no file's content."""
        versions: dict[str, AdapterVersion] = {}
        problems: dict[str, str] = {}
        lacks_files = False
        for entry in stored.record.live:
            if not entry.state.is_callable:
                continue
            path = self.store.get(entry.version)
            lacks_files |= path is None
            try:
                versions[entry.version] = self._version(entry, path)
            except (InvalidAdapterError, ValueError) as error:
                problems[entry.version] = str(error)
        return IngestedRecord(stored.record, stored.revision, versions, problems, lacks_files).prepare()

    def _version(self, entry: AdapterEntry, path: Path | None) -> AdapterVersion:
        if path is None:
            raise InvalidAdapterError("its files are not in the adapter store of this machine")
        if entry.base != self.base:
            raise InvalidAdapterError("it was registered for another base model")
        if self.limits is None:
            raise InvalidAdapterError(NO_ROOM)
        if problem := next(self.limits.problems(entry.targets, entry.rank), None):
            raise InvalidAdapterError(problem.text)
        return entry.at(path)
