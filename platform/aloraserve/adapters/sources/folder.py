"""Adapters in a folder of this machine, or of a shared volume."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from aloraserve.adapters.file_access import open_file
from aloraserve.adapters.problems import AdapterFileError, ProblemCode
from aloraserve.adapters.sources.base import (
    CHUNK_BYTES,
    FILE_LIMITS,
    SourceChangedError,
    SourceFile,
    SourceInterruptedError,
)
from aloraserve.errors import AdapterSourceError


class FolderSource:
    """See :class:`~aloraserve.adapters.sources.base.Source`; links are followed as
    :func:`~aloraserve.adapters.file_access.open_file` does.

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
            with self._open(file.name) as opened:
                opened.seek(offset)
                while chunk := opened.read(CHUNK_BYTES):
                    yield chunk
                # Also what was written while it was read shows.
                if _file_of(file.name, opened) != file:
                    raise SourceChangedError
        except AdapterFileError as error:
            raise SourceChangedError from error
        except OSError as error:
            raise SourceInterruptedError(error.strerror or type(error).__name__) from error

    def close(self) -> None:
        """See the contract; nothing is open between two calls."""

    def _look(self, name: str) -> SourceFile | None:
        try:
            with self._open(name) as opened:
                return _file_of(name, opened)
        except AdapterFileError as error:
            if error.problem.code == ProblemCode.FILE_MISSING:
                return None
            raise AdapterSourceError(error.message) from error

    def _open(self, name: str) -> BinaryIO:
        opened = open_file(self._folder, name, FILE_LIMITS[name])
        # What a link leads to has to be allowed as well.
        if self._is_allowed(Path(os.path.realpath(self._folder / name))):
            return opened
        opened.close()
        raise AdapterSourceError(f"{name} is a link to where no entry of adapter_sources covers it")


def _file_of(name: str, opened: BinaryIO) -> SourceFile:
    found = os.fstat(opened.fileno())
    version = f"{found.st_dev}-{found.st_ino}-{found.st_mtime_ns}-{found.st_ctime_ns}"
    return SourceFile(name, found.st_size, version)
