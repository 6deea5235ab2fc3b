"""Records as a registry serves them: each with the versions that engines can load, and why others cannot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

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
    def numbers(self) -> dict[int, str]:
        """Numbers of the versions in engines, and their names there."""
        return {version.engine_id: version.engine_name for version in self.versions.values()}

    @property
    def served(self) -> tuple[AdapterVersion, ...]:
        """Versions that an alias points to."""
        return tuple(self.versions[entry.version] for entry in self.record.served if entry.version in self.versions)

    @property
    def refused(self) -> Iterable[RefusedAdapter]:
        """Yield what an alias points to and cannot be loaded: the name, or the version if another one is served."""
        is_served = bool(self.served)
        for entry in self.record.served:
            if (why := self.problems.get(entry.version)) is not None:
                yield RefusedAdapter(entry.shown if is_served else entry.name, why)

    def listed(self, tenant: str | None) -> Iterable[ServedName]:
        """Yield the names that a tenant may call: the plain one and its aliases."""
        record = self.record.visible_to(tenant)
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
        return IngestedRecord(stored.record, stored.revision, versions, problems, lacks_files)

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
