"""Private folders for what must not outlive a platform: sockets, Ray's sessions, what replicas put aside.

A Unix socket's path has at most 107 bytes (103 on macOS), and neither Ray nor Valkey takes every character in one, so
the folders are not where ``TMPDIR`` says if that is long or odd, but in ``/tmp``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from aloraserve.errors import StartError
from aloraserve_services.local.left_processes import end_processes_in

PREFIX = "alora-"
MAX_ROOT_BYTES = 16
"""Of the folder that private ones are in: Ray adds up to 85 bytes for its sockets."""
_PLAIN = re.compile(r"/[A-Za-z0-9/._-]*")
_OTHER_ROOTS = ("/tmp", "/var/tmp")  # noqa: S108 - what is made there is private
_OWNER = ".owner"


@contextlib.contextmanager
def private_folder(purpose: str) -> Iterator[Path]:
    """Make a folder that only this user enters, and remove it with everything in it at the end of the context.

    Folders that a process left which was killed are removed as well, and what still runs in them is ended, so that a
    loop of crashes fills neither disk nor memory.

    Args:
        purpose: a short word in its name.

    Raises:
        StartError: there is no place for it.
    """
    roots = _roots()
    for root in roots:
        _remove_leftovers(root)
    folder, lock = _owned(purpose, roots)
    try:
        with lock:
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers() -> None:
    """Remove private folders whose owner has ended, and end what still runs in them."""
    for root in _roots():
        _remove_leftovers(root)


def _roots() -> list[str]:
    chosen = os.environ.get("TMPDIR", "")
    is_fit = _PLAIN.fullmatch(chosen) and len(chosen.rstrip("/")) <= MAX_ROOT_BYTES
    return list(dict.fromkeys([*([chosen.rstrip("/") or "/"] if is_fit else []), *_OTHER_ROOTS]))


def _made(purpose: str, roots: list[str]) -> Path:
    for root in roots:
        with contextlib.suppress(OSError):
            return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{purpose}-", dir=root))
    chosen = os.environ.get("TMPDIR")
    shown = f"TMPDIR is {chosen[:80]!r}; it" if chosen else "TMPDIR"
    raise StartError(
        f"no folder for temporary files: none of {', '.join(roots)} can be written. {shown} may name another one, of "
        f"at most {MAX_ROOT_BYTES} letters, digits and '/._-'"
    )


def _owned(purpose: str, roots: list[str]) -> tuple[Path, IO[bytes]]:
    """Return a new folder, and the file whose lock says that its owner runs: it ends with this process, however that
    ends."""
    while True:
        folder = _made(purpose, roots)
        file = (folder / _OWNER).open("wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        if _is_file_of(file, folder / _OWNER):
            return folder, file
        # Another start saw it before it was locked, and has removed it.
        file.close()


def _is_file_of(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _remove_leftovers(root: str) -> None:
    with contextlib.suppress(OSError):
        for entry in os.scandir(root):
            if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False):
                _remove_if_left(entry)


def _remove_if_left(entry: os.DirEntry[str]) -> None:
    """Remove a folder that is this user's and whose lock nobody holds; one without a lock is just being made.

    The lock is held meanwhile, so that no owner takes it amid that.
    """
    with contextlib.suppress(OSError):
        if entry.stat(follow_symlinks=False).st_uid != os.getuid():
            return
        descriptor = os.open(os.path.join(entry.path, _OWNER), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            end_processes_in(Path(entry.path))
            shutil.rmtree(entry.path, ignore_errors=True)
