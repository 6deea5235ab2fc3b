"""The folder of a running platform's Ray: private, whatever is made in it, and removed with it."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aloraserve_services.local.private_folder import private_folder

TOKEN_BYTES = 32


@dataclass(frozen=True, slots=True)
class SessionFolder:
    """A folder that nobody but its owner enters; Ray makes folders that everybody may write to, so they lie below it.

    Args:
        path: of the folder.
    """

    path: Path

    @property
    def ray(self) -> Path:
        """Folder of Ray's sessions; Ray makes it."""
        return self.path / "ray"

    @property
    def temporary(self) -> Path:
        """Folder of the temporary files of every process that Ray starts."""
        return self.path / "tmp"

    @property
    def token(self) -> Path:
        """File of the token that Ray's servers ask for."""
        return self.path / "token"


@contextlib.contextmanager
def session_folder() -> Iterator[SessionFolder]:
    """Make a folder with a new token, and remove it with everything in it at the end of the context.

    Raises:
        StartError: there is no place for it.
    """
    with private_folder("ray") as path:
        folder = SessionFolder(path)
        folder.temporary.mkdir(mode=0o700)
        _write_privately(folder.token, secrets.token_hex(TOKEN_BYTES))
        yield folder


def _write_privately(file: Path, content: str) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(content)
