"""Adapters in a folder of this machine, or of a shared volume."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from aloraserve.adapters.sources.base import (
    CHUNK_BYTES,
    FILE_LIMITS,
    SourceChangedError,
    SourceFile,
    SourceInterruptedError,
)
from aloraserve.errors import AdapterSourceError


class FolderSource:
    """See :class:`~aloraserve.adapters.sources.base.Source`.

    A link is followed to another file of the folder, and within the hub's cache, whose snapshots are links into
    ``blobs``; nowhere else.

    Args:
        folder: without links in its own path.
        is_allowed: whether a path without links may be read.
    """

    def __init__(self, folder: Path, is_allowed: Callable[[Path], bool]) -> None:
        self._folder = folder
        self._is_allowed = is_allowed

    def files(self) -> Sequence[SourceFile]:
        """See the contract."""
        return [file for name in FILE_LIMITS if (file := self._look(name)) is not None]

    def read(self, file: SourceFile, offset: int) -> Iterator[bytes]:
        """See the contract."""
        try:
            with os.fdopen(self._open(file.name), "rb") as opened:
                opened.seek(offset)
                while chunk := opened.read(CHUNK_BYTES):
                    yield chunk
                # Also what was written while it was read shows.
                if _file_of(file.name, os.fstat(opened.fileno())) != file:
                    raise SourceChangedError
        except OSError as error:
            raise SourceInterruptedError(error.strerror or type(error).__name__) from error

    def close(self) -> None:
        """See the contract; nothing is open between two calls."""

    def _look(self, name: str) -> SourceFile | None:
        try:
            descriptor = self._open(name)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise AdapterSourceError(f"{name} cannot be read: {error.strerror or type(error).__name__}") from error
        try:
            return _file_of(name, os.fstat(descriptor))
        finally:
            os.close(descriptor)

    def _open(self, name: str) -> int:
        """Return a descriptor of a regular file; never waits for a pipe's other end."""
        path = (self._folder / name).resolve(strict=True)
        if not self._is_inside(path) or not self._is_allowed(path):
            raise AdapterSourceError(f"{name} is a link out of the adapter's folder; a file in it is accepted")
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        raise AdapterSourceError(f"{name} is not a regular file")

    def _is_inside(self, path: Path) -> bool:
        if path.is_relative_to(self._folder):
            return True
        caches = [parent.parent for parent in (self._folder, *self._folder.parents) if parent.name == "snapshots"]
        return any(path.parent == cache / "blobs" for cache in caches)


def _file_of(name: str, found: os.stat_result) -> SourceFile:
    return SourceFile(name, found.st_size, f"{found.st_dev}-{found.st_ino}-{found.st_mtime_ns}-{found.st_ctime_ns}")
