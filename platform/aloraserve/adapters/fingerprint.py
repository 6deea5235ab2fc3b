"""Whether an adapter's folder is as it was, without reading its files."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

MAX_ENTRIES = 256

Fingerprint = tuple[tuple[str, int, int, int, int], ...]
"""Name, inode, size and times of modification and change in nanoseconds, of each file."""


def fingerprint_of(folder: Path) -> Fingerprint | None:
    """Return a value that differs once a file in the folder was written, replaced, added or removed.

    The time of change is the kernel's own: a copy that keeps the time of modification still shows. Every file counts,
    also a temporary one that a copy in progress fills; of a folder with more than :data:`MAX_ENTRIES` only so many do.

    Returns:
        None if the folder is not there or cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return tuple(sorted(_entry(entry) for entry in islice(entries, MAX_ENTRIES)))
    except OSError:
        return None


def _entry(entry: os.DirEntry[str]) -> tuple[str, int, int, int, int]:
    try:
        # Behind a link, too: a cache's file may be replaced there.
        found = entry.stat()
    except OSError:
        return entry.name, 0, 0, 0, 0
    return entry.name, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
