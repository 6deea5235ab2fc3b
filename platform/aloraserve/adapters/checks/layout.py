"""Hints for a folder that is not an adapter's own, though adapters are near."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from aloraserve.adapters.peft_files import CONFIG_FILE, WEIGHTS_FILE
from aloraserve.adapters.problems import Problem, ProblemCode, shown

MAX_DEPTH = 3
MAX_LISTED = 256
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def layout_problems(folder: Path, missing: set[str]) -> Iterator[Problem]:
    """Yield what else lies in a folder in which files are missing.

    Args:
        folder: the adapter's.
        missing: names of the required files that are not there.
    """
    if CONFIG_FILE in missing:
        deeper = sorted(_deeper(folder, MAX_DEPTH))
        if deeper:
            listed = ", ".join(shown(str(path.relative_to(folder))) for path in deeper[:4])
            found = f"adapters lie deeper in this folder: {listed}"
            yield Problem(ProblemCode.FILES_DEEPER, "", found, "each in a folder of its own, directly in the root")
    if WEIGHTS_FILE in missing:
        pickles = sorted(name for name in _names(folder) if name.endswith(_PICKLES))
        if pickles:
            found = "is a pickle, which is never loaded"
            yield Problem(ProblemCode.FILE_PICKLE, shown(pickles[0])[1:-1], found, WEIGHTS_FILE)


def _deeper(folder: Path, depth: int) -> Iterator[Path]:
    for name in _names(folder):
        path = folder / name
        if path.is_symlink() or not path.is_dir():
            continue
        if (path / CONFIG_FILE).is_file():
            yield path
        elif depth > 1:
            yield from _deeper(path, depth - 1)


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in islice(entries, MAX_LISTED))
    except OSError:
        return []
