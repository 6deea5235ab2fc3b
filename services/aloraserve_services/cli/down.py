"""``aloraserve down``: stops the platform of a state folder."""

from __future__ import annotations

import contextlib

import psutil

from aloraserve.errors import StartError
from aloraserve_services.cli.console import out
from aloraserve_services.cli.options import ChosenSettings, takes_settings
from aloraserve_services.local import run_file

STOP_TIMEOUT_S = 60
"""For its end after its last answer."""


@takes_settings("state_dir")
def down(chosen: ChosenSettings) -> None:
    """Stop the platform that `aloraserve up` started, once the answers that it is giving have ended."""
    settings = chosen.load()
    running = run_file.read(settings.state_dir)
    process = running.process() if running else None
    if running is None or process is None:
        out.print(f"no platform runs in {settings.state_dir}")
        return
    stop_timeout_s = running.drain_timeout_s + STOP_TIMEOUT_S
    try:
        process.terminate()
        process.wait(stop_timeout_s)
    except psutil.NoSuchProcess:
        pass
    except psutil.AccessDenied:
        raise StartError(f"process {process.pid} belongs to another user") from None
    except psutil.TimeoutExpired:
        _kill(process)
        raise StartError(
            f"process {process.pid} did not end within {stop_timeout_s:g} s, so it and those below it were killed"
        ) from None
    out.print("stopped")


def _kill(process: psutil.Process) -> None:
    """End a platform that does not end by itself; nothing it started outlives it."""
    for each in (*process.children(recursive=True), process):
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
