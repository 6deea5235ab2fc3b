"""Opening what lies in an adapter's folder: regular files of bounded length, which lie where they seem to lie."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from aloraserve.adapters.problems import AdapterFileError, Problem, ProblemCode

CHUNK_BYTES = 4 * 1024 * 1024
_POINTER = b"version https://git-lfs.github.com/spec/"
_REAL_FILES = "a regular file in the adapter's folder, or in its own Hugging Face cache (hf download --local-dir)"


def open_file(folder: Path, name: str, max_bytes: int) -> BinaryIO:
    """Open a file of a folder, without waiting for anything.

    A link counts if it ends in the folder itself or, for a snapshot in a Hugging Face cache, among the blobs of the
    same repository.

    Args:
        folder: the adapter's.
        name: of a file in it.
        max_bytes: the most that the file may have; nothing is read of a longer one.

    Raises:
        AdapterFileError: it is missing, a link elsewhere, not a regular file, too long, or cannot be opened.
    """
    try:
        path = _resolved(folder, name)
        # Neither blocked by a named pipe that nobody writes to, nor served from a buffer after the file has changed.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW), "rb", 0)
    except (OSError, RuntimeError, ValueError) as error:
        raise failed(name, error) from error
    try:
        _check_kind(file, name, max_bytes)
    except BaseException:
        file.close()
        raise
    return file


def read_file(folder: Path, name: str, max_bytes: int) -> bytes:
    """Return the content of a short file; see :func:`open_file`."""
    with open_file(folder, name, max_bytes) as file:
        return b"".join(chunks(file, name))


def chunks(file: BinaryIO, name: str) -> Iterator[bytes]:
    """Yield a file's content from its start.

    Raises:
        AdapterFileError: it cannot be read.
    """
    try:
        file.seek(0)
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
    except OSError as error:
        raise failed(name, error) from error


def is_pointer(start: bytes) -> bool:
    """Whether a file that starts so is what Git LFS leaves in place of a large file."""
    return start.startswith(_POINTER)


def _resolved(folder: Path, name: str) -> Path:
    home = folder.resolve(strict=True)
    path = (folder / name).resolve(strict=True)
    if path.is_relative_to(home) or any(path.is_relative_to(blobs) for blobs in _own_blobs(home)):
        return path
    raise AdapterFileError(Problem(ProblemCode.FILE_LINK, name, "is a link out of the adapter's folder", _REAL_FILES))


def _own_blobs(home: Path) -> Iterator[Path]:
    """Yield the blobs of the repository whose snapshot ``home`` is in: ``models--<name>/snapshots/<commit>/...``."""
    for parent in home.parents:
        if parent.name.startswith("models--") and home.is_relative_to(parent / "snapshots"):
            yield parent / "blobs"


def _check_kind(file: BinaryIO, name: str, max_bytes: int) -> None:
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode):
        raise AdapterFileError(Problem(ProblemCode.FILE_UNREADABLE, name, "is not a regular file", _REAL_FILES))
    if found.st_size > max_bytes:
        problem = Problem(ProblemCode.FILE_TOO_LARGE, name, f"has {found.st_size} bytes", f"at most {max_bytes}")
        raise AdapterFileError(problem)
    start = os.pread(file.fileno(), len(_POINTER), 0)
    if is_pointer(start):
        raise AdapterFileError(
            Problem(ProblemCode.FILE_POINTER, name, "is a Git LFS pointer", "the file itself; run git lfs pull")
        )


def changed() -> OSError:
    """Return the error of a file that somebody changes while it is read."""
    return OSError(errno.EIO, "it changed while it was read")


def failed(name: str, error: Exception) -> AdapterFileError:
    """Return the error of a file, without the cause's own text: that has the path, and refusals are shown to all."""
    if isinstance(error, FileNotFoundError):
        return AdapterFileError(Problem(ProblemCode.FILE_MISSING, name, "is missing"))
    cause = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
    return AdapterFileError(Problem(ProblemCode.FILE_UNREADABLE, name, f"cannot be read: {cause}"))
