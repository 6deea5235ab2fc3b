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

from aloraserve.errors import StartError

PREFIX = "alora-"
MAX_ROOT_BYTES = 16
"""Of the folder that private ones are in: Ray adds up to 85 bytes for its sockets."""
_PLAIN = re.compile(r"/[A-Za-z0-9/._-]*")
_OTHER_ROOTS = ("/tmp", "/var/tmp")  # noqa: S108 - what is made there is private
_OWNER = ".owner"


@contextlib.contextmanager
def private_folder(purpose: str) -> Iterator[Path]:
    """Make a folder that only this user enters, and remove it with everything in it at the end of the context.

    Folders that a process left which was killed are removed as well, so that a loop of crashes fills no disk.

    Args:
        purpose: a short word in its name.

    Raises:
        StartError: there is no place for it.
    """
    roots = _roots()
    for root in roots:
        _remove_leftovers(root)
    folder = _made(purpose, roots)
    try:
        with _owned(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers() -> None:
    """Remove private folders whose owner has ended."""
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


@contextlib.contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """Hold a lock that ends with this process, however that ends."""
    with (folder / _OWNER).open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_leftovers(root: str) -> None:
    with contextlib.suppress(OSError):
        for entry in os.scandir(root):
            if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False) and _is_left(entry):
                shutil.rmtree(entry.path, ignore_errors=True)


def _is_left(entry: os.DirEntry[str]) -> bool:
    """Return whether a folder is this user's, and nobody holds its lock; one without a lock is just being made."""
    try:
        if entry.stat(follow_symlinks=False).st_uid != os.getuid():
            return False
        descriptor = os.open(os.path.join(entry.path, _OWNER), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
