"""Folders that are written in one step: a reader sees a whole one or none."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Write a folder, in place of the one that is there.

    A kill leaves the folder that was there, the new one or, between two renames, none. What must not be lost is
    written under a name of its own before the older one is removed.

    Args:
        folder: to write. Its parent is there.
        fill: writes the files into the folder that it is given.

    Raises:
        OSError: it cannot be written; what was there before still is, and nothing else.
    """
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        fill(work)
        for path in work.iterdir():
            _flush(path)
        work.chmod(0o755)
        if folder.exists():
            _replace(folder, work)
        else:
            work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _replace(folder: Path, work: Path) -> None:
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    try:
        folder.rename(old / "old")
        try:
            work.rename(folder)
        except BaseException:
            (old / "old").rename(folder)
            raise
    finally:
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
