"""Fetches an adapter from its source into a folder of its own: whole, or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from aloraserve.adapters.peft_files import REQUIRED_FILES, WEIGHTS_FILE
from aloraserve.adapters.sources.artifact import ArtifactSource
from aloraserve.adapters.sources.base import (
    FILE_LIMITS,
    Progress,
    Source,
    SourceChangedError,
    SourceFile,
    SourceInterruptedError,
)
from aloraserve.adapters.sources.folder import FolderSource
from aloraserve.adapters.sources.hub import HubSource
from aloraserve.adapters.sources.object_store import ObjectStoreSource
from aloraserve.adapters.sources.policy import SourcePolicy
from aloraserve.adapters.sources.reference import SourceReference, parse_reference
from aloraserve.errors import AdapterNotStoredError, AdapterSourceError


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What one fetch may take.

    Args:
        max_bytes: of all files together.
        timeout_s: for the whole.
        attempts: how often reading may end early, for each file, and how often the source may change.
        first_pause_s: wait after the first of them; doubles with each.
    """

    max_bytes: int = sum(FILE_LIMITS.values())
    timeout_s: float = 1800
    attempts: int = 4
    first_pause_s: float = 0.25


@dataclass(frozen=True)
class SourceFetcher:
    """Fetches adapters. From any thread; a fetch keeps the thread busy until it is done.

    Args:
        policy: which sources are allowed.
        stage: returns a new empty folder to fetch into.
        limits: of each fetch.
        clock: monotonic seconds.
        sleep: waits so many seconds.
    """

    policy: SourcePolicy
    stage: Callable[[], Path]
    limits: FetchLimits = FetchLimits()
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def fetch(self, reference: str, *, progress: Progress | None = None, weights_sha256: str = "") -> Path:
        """Return a staged folder with the adapter's files and no other; it is the caller's to store or remove.

        A read that ends early goes on where it ended. If the source changes meanwhile, the fetch begins again.

        Args:
            reference: see :func:`~aloraserve.adapters.sources.reference.parse_reference`.
            progress: called as bytes come; what it raises ends the fetch.
            weights_sha256: hex digest that ``adapter_model.safetensors`` has to have; empty: any.

        Raises:
            AdapterSourceError: the source is refused, not there, too long, or not what it was said to be. Nothing is
                left of it.
            AdapterNotStoredError: it cannot be written here; likewise.
        """
        with contextlib.closing(self._open(parse_reference(reference))) as source:
            return _Fetch(self, source, progress or _ignore, weights_sha256.lower()).run()

    def _open(self, reference: SourceReference) -> Source:
        if reference.scheme == "file":
            return FolderSource(self.policy.folder(reference), self.policy.covers_path)
        self.policy.check(reference)
        if reference.scheme == "hf":
            return HubSource(reference, self.policy.lists_host)
        if reference.scheme == "oci":
            return ArtifactSource(reference, self.policy.lists_host)
        return ObjectStoreSource(reference, self.limits.timeout_s)


class _Fetch:
    """One fetch, with its deadline and its count of bytes."""

    def __init__(self, fetcher: SourceFetcher, source: Source, progress: Progress, weights_sha256: str) -> None:
        self._fetcher, self._limits = fetcher, fetcher.limits
        self._source = source
        self._progress = progress
        self._weights_sha256 = weights_sha256
        self._deadline = fetcher.clock() + self._limits.timeout_s
        self._done = self._total = 0

    def run(self) -> Path:
        for attempt in range(self._limits.attempts):
            try:
                return self._stage_all()
            except SourceChangedError:
                self._pause(attempt)
        raise AdapterSourceError(f"the source changed {self._limits.attempts} times while it was fetched")

    def _stage_all(self) -> Path:
        files = self._listed()
        self._done, self._total = 0, sum(file.size for file in files)
        folder = self._new_folder()
        try:
            self._progress(0, self._total)
            for file in files:
                self._copy(file, folder / file.name)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder

    def _new_folder(self) -> Path:
        try:
            return self._fetcher.stage()
        except OSError as error:
            raise _unwritable(error) from error

    def _listed(self) -> Sequence[SourceFile]:
        """Return the files there are, all within the limits."""
        files = self._retried(self._source.files)
        _refuse_missing({file.name for file in files})
        for file in files:
            if file.size > FILE_LIMITS[file.name]:
                raise _too_long(file.name, file.size, FILE_LIMITS[file.name])
        if (total := sum(file.size for file in files)) > self._limits.max_bytes:
            raise _too_long("the adapter", total, self._limits.max_bytes)
        return files

    def _retried(self, look: Callable[[], Sequence[SourceFile]]) -> Sequence[SourceFile]:
        for attempt in range(self._limits.attempts):
            try:
                return look()
            except SourceInterruptedError as error:
                cause = error
                self._pause(attempt)
        raise _gone("the source", cause)

    def _copy(self, file: SourceFile, target: Path) -> None:
        """Write a file, going on where it ended when it does early."""
        try:
            with target.open("xb") as opened:
                copy = _Copy(opened)
                self._read_all(file, copy)
                copy.sync()
        except OSError as error:
            raise _unwritable(error) from error
        self._check_digest(file, copy.digest.hexdigest())

    def _read_all(self, file: SourceFile, copy: _Copy) -> None:
        for attempt in range(self._limits.attempts):
            try:
                return self._read_on(file, copy)
            except SourceInterruptedError as error:
                cause = error
                self._pause(attempt)
        raise _gone(file.name, cause)

    def _read_on(self, file: SourceFile, copy: _Copy) -> None:
        for chunk in self._source.read(file, copy.size):
            if copy.size + len(chunk) > file.size:
                raise AdapterSourceError(f"{file.name} is longer than the {file.size} bytes that its source said")
            copy.write(chunk)
            self._done += len(chunk)
            self._progress(self._done, self._total)
            self._check_time()
        if copy.size < file.size:
            raise SourceInterruptedError("it ended early")

    def _check_digest(self, file: SourceFile, found: str) -> None:
        wanted = {file.sha256} if file.sha256 else set()
        if file.name == WEIGHTS_FILE and self._weights_sha256:
            wanted.add(self._weights_sha256)
        for digest in wanted - {found}:
            raise AdapterSourceError(f"{file.name} has the SHA-256 {found}, not {digest[:64]}")

    def _pause(self, attempt: int) -> None:
        self._fetcher.sleep(self._limits.first_pause_s * 2**attempt)
        self._check_time()

    def _check_time(self) -> None:
        if self._fetcher.clock() > self._deadline:
            raise AdapterSourceError(f"the source was not fetched within {self._limits.timeout_s:g} s")


class _Copy:
    """A file that is written, and the digest of what it has so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0
        self.digest = hashlib.sha256()

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self.digest.update(chunk)
        self.size += len(chunk)

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())


def _refuse_missing(names: Collection[str]) -> None:
    if missing := [name for name in REQUIRED_FILES if name not in names]:
        raise AdapterSourceError(
            f"{missing[0]} is missing at the source; a folder with {' and '.join(REQUIRED_FILES)} is accepted"
        )


def _too_long(what: str, size: int, accepted: int) -> AdapterSourceError:
    return AdapterSourceError(f"{what} has {size} bytes; {accepted} at most are accepted")


def _gone(what: str, cause: Exception) -> AdapterSourceError:
    return AdapterSourceError(f"{what} could not be read to its end: {cause}")


def _unwritable(error: OSError) -> AdapterNotStoredError:
    return AdapterNotStoredError(f"the adapter cannot be written on this machine: {error.strerror}")


def _ignore(_done: int, _total: int) -> None:
    """No progress is asked for."""
