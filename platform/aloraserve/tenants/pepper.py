"""The pepper's file: made once, read by its owner alone, the same on all machines of a fleet."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tempfile
from pathlib import Path

from aloraserve.errors import SettingsError
from aloraserve.tenants.keys import Pepper

MIN_BYTES = 16
MAX_BYTES = 4096


def read_pepper(path: Path, *, is_given: bool) -> Pepper:
    """Return the pepper of a file.

    Args:
        path: of the file.
        is_given: whether the settings name it; another one is made if it is not there.

    Raises:
        SettingsError: it is not there, cannot be read or made, is too short, or others may read it.
    """
    try:
        if not is_given:
            _make(path)
        with path.open("rb") as file:
            # A secret that Kubernetes mounts belongs to root, and its group may be the process's own.
            readable = stat.S_IRWXO if is_given else stat.S_IRWXG | stat.S_IRWXO
            if os.fstat(file.fileno()).st_mode & readable:
                raise SettingsError(f"the key pepper {str(path)!r} can be read by others: take their permissions away")
            content = file.read(MAX_BYTES + 1).strip()
    except OSError as error:
        raise SettingsError(f"the key pepper {str(path)!r} cannot be read: {error.strerror}") from None
    if not MIN_BYTES <= len(content) <= MAX_BYTES:
        raise SettingsError(
            f"the key pepper {str(path)!r} has {len(content)} bytes; {MIN_BYTES} to {MAX_BYTES} are accepted"
        )
    return Pepper(content)


def _make(path: Path) -> None:
    """Make the file if it is not there; of two processes that make it at once one does."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".key-pepper-", dir=path.parent)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
