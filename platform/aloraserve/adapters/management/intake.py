"""From a source to the store: the parts of a registration that know files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aloraserve.adapters.base import AdapterVersion
from aloraserve.adapters.catalog.ingested import NO_ROOM
from aloraserve.adapters.checks import ActivationProof, CheckReport
from aloraserve.adapters.management.base import Progress
from aloraserve.adapters.reader import AdapterReader
from aloraserve.adapters.sources import SourceFetcher, parse_reference
from aloraserve.adapters.store import AdapterStore
from aloraserve.errors import AdapterConflictError, InvalidAdapterError, SettingsError

Prove = Callable[[AdapterVersion, Sequence[dict[str, str]]], ActivationProof]
"""Proves an adapter on an example conversation, or on one of its own if that is empty."""


@dataclass(frozen=True)
class StoreIntake:
    """See :class:`~aloraserve.adapters.management.base.AdapterIntake`.

    Args:
        fetcher: brings files from sources to folders of the store.
        open_reader: returns what checks them.
        store: keeps them.
        has_room: whether the engines were started with room for adapters.
        prove: shows that an aLoRA would act, on its example; None where prompts cannot be made.
    """

    fetcher: SourceFetcher
    open_reader: Callable[[], AdapterReader]
    store: AdapterStore
    has_room: bool = True
    prove: Prove | None = None

    def shown(self, reference: str) -> str:
        """See the contract."""
        if not self.has_room:
            raise AdapterConflictError(NO_ROOM)
        source = parse_reference(reference)
        if source.scheme == "file":
            self.fetcher.policy.folder(source)
        else:
            self.fetcher.policy.check(source)
        return str(source)

    def fetch(self, reference: str, *, progress: Progress, weights_sha256: str = "") -> Path:
        """See the contract."""
        return self.fetcher.fetch(reference, progress=progress, weights_sha256=weights_sha256)

    def check(self, name: str, folder: Path) -> CheckReport:
        """See the contract."""
        try:
            reader = self.open_reader()
        except SettingsError as error:
            raise InvalidAdapterError(
                "the base model's config.json has no shape that adapters are checked for"
            ) from error
        return with_proof(reader.check(folder), name, folder, self.prove)

    def keep(self, digest: str, folder: Path) -> None:
        """See the contract."""
        self.store.keep(digest, folder)

    def refer(self, digest: str) -> None:
        """See the contract."""
        try:
            self.store.refer(digest)
        except OSError as error:
            raise InvalidAdapterError(f"it cannot be written to the adapter store: {error.strerror}") from error

    def release(self, digest: str) -> None:
        """See the contract."""
        self.store.release(digest)

    def has(self, digest: str) -> bool:
        """See the contract."""
        return self.store.has(digest)

    def discard(self, folder: Path) -> None:
        """See the contract."""
        self.store.discard(folder)


def with_proof(report: CheckReport, name: str, folder: Path, prove: Prove | None) -> CheckReport:
    """Return an aLoRA's report with the proof that it would act; any other as it is."""
    if prove is None or not report.is_accepted or report.facts.kind != "alora":
        return report
    example = [{"role": message.role, "content": message.content} for message in report.facts.sidecar.example]
    return report.proven(prove(report.version(name, folder), example))
