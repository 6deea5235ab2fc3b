"""Paths as people write them in variables and files, where no shell expands ``~``."""

from __future__ import annotations

from pathlib import Path


def expanded(path: str | Path) -> Path:
    """Return a path with the home folder in the place of ``~`` or ``~user``.

    Raises:
        ValueError: there is no such user, or this one has no home folder; or the path is none.
    """
    text = str(path)
    if not text or "\0" in text:
        raise ValueError("a path is needed")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError("nobody knows that home folder: write the whole path") from None
