"""A folder of adapters: each subfolder is one, served under its name while it is there, and as it is now."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import structlog

from aloraserve.adapters.base import AdapterRef, AdapterVersion, RefusedAdapter, ServedName
from aloraserve.adapters.peft_files import CONFIG_FILE
from aloraserve.adapters.reader import AdapterReader
from aloraserve.adapters.retired import RetiredVersions
from aloraserve.adapters.served import FedRegistry, Served, ServedFeed
from aloraserve.adapters.store import USE_EVERY_S
from aloraserve.adapters.subfolder import Subfolder
from aloraserve.errors import SettingsError

MAX_ADAPTERS = 10_000
MAX_SUBFOLDERS = 4 * MAX_ADAPTERS
READ_EVERY_S = 2.0

log = structlog.get_logger(__name__)


class FolderRegistry(FedRegistry):
    """The adapters in the direct subfolders of ``root``; those whose name starts with a dot are passed over.

    See :class:`~aloraserve.adapters.base.AdapterRegistry`. The folder is read when the registry is made and then by
    :meth:`run`, on another thread; a reading in which nothing changed lists folders and opens no file. What a
    subfolder holds counts once it has settled (:class:`~aloraserve.adapters.subfolder.Subfolder`).

    Args:
        root: the folder.
        reader: reads and checks one adapter.
        read_every_s: seconds between readings.
        clock: monotonic seconds.

    Raises:
        SettingsError: ``root`` is not a readable folder.
    """

    def __init__(
        self,
        root: Path,
        reader: AdapterReader,
        *,
        read_every_s: float = READ_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._reader = reader
        self._read_every_s = read_every_s
        self._clock = clock
        self._subfolders: dict[str, Subfolder] = {}
        self._retired = RetiredVersions(clock)
        self._used_at = clock()
        self._looking = asyncio.Lock()
        self._missed: tuple[AdapterRef | None, float] = (None, 0.0)
        self._feed = ServedFeed(self._look(_names(root), Served(), (), at_once=True))

    def resolve(self, name: str, *, tenant: str | None = None, key: str = "") -> AdapterVersion:
        """See the contract; every adapter here is for everyone."""
        return self._feed.current.resolve(name, self._reader.base_names)

    def listed(self, tenant: str | None = None) -> tuple[ServedName, ...]:
        """See the contract."""
        return tuple(ServedName(version.name, version.name, version) for version in self.all())

    def sees(self, tenant: str | None, name: str) -> bool:
        """See the contract."""
        return True

    async def begin(self) -> None:
        """See the contract."""

    async def find(self, ref: AdapterRef) -> AdapterVersion | None:
        """See the contract; a version that is not known is looked for in the store and in its subfolder."""
        if (known := self._known(ref)) is not None:
            return known
        async with self._looking:
            if (known := self._known(ref)) is not None or self._was_missed(ref):
                return known
            found = await asyncio.to_thread(self._reader.find, ref, self._root / ref.name)
            if found is None or _clash(found, _by_number([*self.all(), *self._retired])):
                self._missed = (ref, self._clock())
                return None
            self._retired.add(found)
            return found

    async def run(self) -> None:
        """Read the folder again and again until cancelled; once at a time."""
        is_readable = True
        while True:
            await asyncio.sleep(self._read_every_s)
            try:
                await self.read()
                is_readable = True
            except SettingsError as error:
                if is_readable:
                    log.warning("adapters_folder_unreadable", cause=error.message)
                is_readable = False

    async def close(self) -> None:
        """See the contract."""

    async def read(self) -> None:
        """Read the folder now and serve what counts.

        Raises:
            SettingsError: the folder cannot be read; what is served stays.
        """
        before, retired = self._feed.current, tuple(self._retired)
        served = await asyncio.to_thread(lambda: self._look(_names(self._root), before, retired))
        change = served.since(before)
        for version in change.removed:
            self._retired.add(version)
        for version in change.added:
            self._retired.discard(version.ref)
        self._feed.publish(served)
        await self._use_store()

    def _look(
        self, names: Iterable[str], before: Served, retired: Iterable[AdapterVersion], *, at_once: bool = False
    ) -> Served:
        """Return what is to be served after a look at every subfolder; those that were served keep their place."""
        for name in names:
            self._subfolders.setdefault(name, Subfolder(self._root / name, self._reader.read))
        for subfolder in self._subfolders.values():
            subfolder.look(at_once=at_once)
        self._subfolders = {name: found for name, found in self._subfolders.items() if not found.is_gone}
        numbers = _by_number([*before.versions.values(), *retired])
        versions: list[AdapterVersion] = []
        refused: list[RefusedAdapter] = []
        for name in sorted(self._subfolders, key=lambda name: (name not in before.by_name, name)):
            match self._subfolders[name].outcome:
                case AdapterVersion() as version:
                    if reason := _no_room(version, versions) or _clash(version, numbers):
                        refused.append(RefusedAdapter(name, reason))
                    else:
                        versions.append(version)
                        numbers[version.engine_id] = version
                case RefusedAdapter() as bad:
                    refused.append(bad)
        return Served.of(versions, refused)

    def _known(self, ref: AdapterRef) -> AdapterVersion | None:
        served = self._feed.current.by_name.get(ref.name)
        return served if served is not None and served.digest == ref.digest else self._retired.get(ref)

    def _was_missed(self, ref: AdapterRef) -> bool:
        """Whether this was the last one that was looked for in vain, a moment ago."""
        missed, missed_at = self._missed
        return ref == missed and self._clock() - missed_at < self._read_every_s

    async def _use_store(self) -> None:
        store = self._reader.store
        if store is None or self._clock() - self._used_at < USE_EVERY_S:
            return
        self._used_at = self._clock()
        await asyncio.to_thread(store.use, {version.digest for version in (*self.all(), *self._retired)})


def _names(root: Path) -> list[str]:
    """Return the names of the subfolders, at most :data:`MAX_SUBFOLDERS`, sorted."""
    if os.path.lexists(root / CONFIG_FILE):
        raise SettingsError(
            f"the adapters' folder {root} is itself an adapter: it has {CONFIG_FILE}; accepted: a folder of adapters, "
            f"such as its parent {root.absolute().parent}"
        )
    try:
        found = sorted(path.name for path in root.iterdir() if os.path.isdir(path) and not path.name.startswith("."))
    except OSError as error:
        cause = error.strerror or type(error).__name__
        raise SettingsError(
            f"the adapters' folder {root} cannot be read: {cause}; an existing folder is accepted"
        ) from error
    return found[:MAX_SUBFOLDERS]


def _no_room(version: AdapterVersion, served: Sequence[AdapterVersion]) -> str | None:
    if len(served) < MAX_ADAPTERS:
        return None
    return f"{MAX_ADAPTERS} adapters are served already, the most that are accepted; {version.name!r} is one more"


def _by_number(versions: Iterable[AdapterVersion]) -> dict[int, AdapterVersion]:
    return {version.engine_id: version for version in versions}


def _clash(version: AdapterVersion, others: Mapping[int, AdapterVersion]) -> str | None:
    """Return why a version cannot run beside others: engines know versions by numbers, and two may have one."""
    other = others.get(version.engine_id)
    if other is None or other.engine_name == version.engine_name:
        return None
    return f"its number in the engines is that of {other.name!r}; rename its folder"
