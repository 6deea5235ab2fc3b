"""``aloraserve logs``: the ends of the log files of the platform in a state folder, whether it runs or not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aloraserve.errors import StartError
from aloraserve.settings import Settings
from aloraserve.telemetry.log_files import PREVIOUS
from aloraserve_services.cli.console import out
from aloraserve_services.cli.log_paths import log_folder, own_log
from aloraserve_services.cli.options import ChosenSettings, takes_settings

MAX_READ_BYTES = 1 << 20
"""Of the end of a file."""


@takes_settings("state_dir")
def logs(
    chosen: ChosenSettings,
    process: Annotated[str | None, typer.Argument(help="One of them, like engine-0; default: all.")] = None,
    lines: Annotated[int, typer.Option(min=1, max=10_000, help="Lines of each.")] = 20,
    previous: Annotated[bool, typer.Option("--previous", help="Of the run before.")] = False,
) -> None:
    """Show the last lines of what each process wrote, also after its end."""
    settings = chosen.load()
    files = _files(settings, is_previous=previous)
    if process is not None and process not in files:
        raise StartError(
            f"{process[:80]!r} has no log file in {settings.state_dir}; there are: {', '.join(files) or 'none'}"
        )
    for name in [process] if process is not None else files:
        out.print(f"== {name}: {files[name]}", markup=False, soft_wrap=True, style="bold")
        for line in _last_lines(files[name], lines):
            out.print(line, markup=False, soft_wrap=True)


def _files(settings: Settings, *, is_previous: bool) -> dict[str, Path]:
    """Return the log file of each process by its name."""
    folder, own = log_folder(settings), own_log(settings)
    if is_previous:
        folder, own = folder / PREVIOUS, own.with_name(f"{own.name}.1")
    found = {path.stem: path for path in sorted(folder.glob("*.log"))}
    return ({"up": own} if own.exists() else {}) | found


def _last_lines(file: Path, lines: int) -> list[str]:
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - MAX_READ_BYTES))
        return opened.read(MAX_READ_BYTES).decode("utf-8", "replace").splitlines()[-lines:]
