"""What a registration needs, made of the sources, the check and the store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aloraserve.adapters.checks import CheckReport
from aloraserve.adapters.reader import AdapterReader
from aloraserve.adapters.sources import Progress, SourceFetcher, parse_reference
from aloraserve.adapters.store import AdapterStore


@dataclass(frozen=True)
class StoreIntake:
    """See :class:`~aloraserve.adapters.management.base.AdapterIntake`.

    Args:
        sources: fetches; stages in the store.
        reader: checks for this fleet's engines.
        store: keeps.
    """

    sources: SourceFetcher
    reader: AdapterReader
    store: AdapterStore

    def shown(self, reference: str) -> str:
        """See the contract."""
        source = parse_reference(reference)
        self.sources.check(source)
        return str(source)

    def fetch(self, reference: str, *, progress: Progress, weights_sha256: str = "") -> Path:
        """See the contract."""
        return self.sources.fetch(reference, progress=progress, weights_sha256=weights_sha256)

    def check(self, name: str, folder: Path) -> CheckReport:
        """See the contract."""
        return self.reader.check(folder)

    def keep(self, digest: str, folder: Path) -> None:
        """See the contract."""
        self.store.keep(digest, folder)

    def release(self, digest: str) -> None:
        """See the contract."""
        self.store.release(digest)

    def has(self, digest: str) -> bool:
        """See the contract."""
        return self.store.has(digest)

    def discard(self, folder: Path) -> None:
        """See the contract."""
        self.store.discard(folder)
