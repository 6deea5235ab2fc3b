"""Output, progress and exit codes of all commands.

Exit codes: 0 done, 1 failed while running, 2 a setting, an option or a training spec is wrong, 3 the platform could not
start, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import typer
from rich.console import Console

from aloraserve.errors import AloraserveError, SettingsError, StartError, TrainingError
from aloraserve_services.local.processes import stop_signals

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

EXIT_FAILED, EXIT_SETTINGS, EXIT_START, EXIT_INTERRUPTED = 1, 2, 3, 130


class Steps:
    """Progress in lines, each with the seconds since the start."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self, message: str) -> None:
        """Print what happens now."""
        out.print(f"[dim]{time.monotonic() - self._started:6.1f} s[/dim]  {message}", soft_wrap=True)


def report_written(path: Path) -> None:
    """Print where a result was written."""
    out.print(f"written to {path}")


def check_folder(path: Path) -> None:
    """Check, before a long computation, that a folder can be made; it is made when there is something to write.

    Raises:
        SettingsError: there is a file in its place.
    """
    blocked = next((place for place in (path, *path.parents) if place.exists()), path)
    if blocked.exists() and not blocked.is_dir():
        raise SettingsError(f"--out is {str(path)!r}, and {str(blocked)!r} is a file; a folder is accepted")


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """Turn expected errors and stop signals into one line and an exit code.

    Raises:
        typer.Exit: with the exit code.
    """
    try:
        with stop_signals():
            yield
    except (SettingsError, TrainingError) as error:
        _fail(error, EXIT_SETTINGS)
    except StartError as error:
        _fail(error, EXIT_START)
    except (AloraserveError, OSError) as error:
        _fail(error, EXIT_FAILED)
    except KeyboardInterrupt:
        err.print("stopped", style="yellow")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _fail(error: Exception, code: int) -> None:
    err.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
    raise typer.Exit(code) from None


def clearly(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with clear errors; it keeps its options."""

    @functools.wraps(command)
    def run(*args: object, **options: object) -> None:
        with clear_errors():
            command(*args, **options)

    return run
