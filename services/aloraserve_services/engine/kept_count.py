"""A count that outlives its process, in a file of this machine: who counts its own end cannot be asked afterwards."""

from __future__ import annotations

import contextlib
from pathlib import Path

from aloraserve.records.file import replace_file

MAX_DIGITS = 15


class KeptCount:
    """See the module's docstring. A file that cannot be read or written costs what is in it, and nothing else.

    Args:
        path: of the file; of two processes that count in one the last one to write is right.

    Attributes:
        value: of the count, at first that of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.value = _read(path)

    def add(self) -> None:
        """Count one more."""
        self.value += 1
        with contextlib.suppress(OSError):
            replace_file(self._path, b"%d" % self.value)


def _read(path: Path) -> int:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_DIGITS + 1)
    except OSError:
        return 0
    return int(text) if text.isdigit() and len(text) <= MAX_DIGITS else 0
