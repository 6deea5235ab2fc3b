"""Where the log files of a platform are that `aloraserve up` runs."""

from __future__ import annotations

from pathlib import Path

from aloraserve.settings import Settings


def log_folder(settings: Settings) -> Path:
    """Return the folder with the file of each gateway and engine replica."""
    return settings.log_dir or settings.state_dir / "logs"


def own_log(settings: Settings) -> Path:
    """Return the file of the command itself, if it is detached."""
    return settings.state_dir / "up.log"
