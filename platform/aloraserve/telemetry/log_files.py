"""The output of a process and its children in a file of its own: private, bounded, and there after their end."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
from pathlib import Path

MAX_FILE_BYTES = 16 << 20
CHECK_EVERY_S = 10.0
MAX_KEPT_FILES = 64
MAX_KEPT_BYTES = 256 << 10
PREVIOUS = "previous"
"""Subfolder with the files of the run before."""
RAY = "ray"
"""Subfolder with the ends of Ray's own files."""


def begin_log_folder(folder: Path) -> None:
    """Make room for the files of a new run; those of the run before move aside, and those before it go."""
    if not folder.is_dir():
        return
    folder.chmod(0o700)
    left, previous = [path for path in folder.iterdir() if path.name != PREVIOUS], folder / PREVIOUS
    if not left:
        return
    shutil.rmtree(previous, ignore_errors=True)
    previous.mkdir(mode=0o700)
    for path in left:
        path.rename(previous / path.name)


def log_file(folder: Path, process: str) -> Path:
    """Return the file of a process."""
    return folder / f"{process}.log"


def write_output_to(file: Path) -> None:
    """Have standard output and error of this process, and of those that it starts, go to the end of a file.

    What others than Python write there counts: the last words of a library that ends the process.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    opened = open_log(file)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for descriptor in (1, 2):
        os.dup2(opened, descriptor)
    os.close(opened)
    threading.Thread(target=_keep_short, args=(file,), name="log_file", daemon=True).start()


def open_log(file: Path) -> int:
    """Return a descriptor that writes to the end of a file, whatever else does, and that only its owner reads."""
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def shorten(file: Path, max_bytes: int = MAX_FILE_BYTES) -> None:
    """Move what a file has, if that is too much, to another one beside it, in the place of what that had.

    Whoever writes to the file goes on, at its new beginning; what is written in the moment between is lost.
    """
    if file.stat().st_size <= max_bytes:
        return
    older = file.with_name(f"{file.name}.1")
    older.unlink(missing_ok=True)
    os.close(open_log(older))
    shutil.copyfile(file, older)
    os.truncate(file, 0)


def keep_ends(files: list[Path], folder: Path) -> None:
    """Keep the end of each of the newest of these files that are not empty, in a folder.

    Args:
        files: as many as there are.
        folder: to be made.
    """
    written = [(stat.st_mtime, path) for path in files if (stat := path.stat()).st_size]
    for each in (folder.parent, folder):
        each.mkdir(mode=0o700, exist_ok=True)
    for _, path in sorted(written, reverse=True)[:MAX_KEPT_FILES]:
        with path.open("rb") as source, os.fdopen(open_log(folder / path.name), "wb") as kept:
            source.seek(max(0, path.stat().st_size - MAX_KEPT_BYTES))
            kept.write(source.read(MAX_KEPT_BYTES))


def _keep_short(file: Path) -> None:
    while True:
        threading.Event().wait(CHECK_EVERY_S)
        # A file that somebody removed, or a disk that is full, ends no process.
        with contextlib.suppress(OSError):
            shorten(file)
