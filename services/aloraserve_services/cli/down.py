"""``aloraserve down``: stops the platform of a state folder."""

from __future__ import annotations

import psutil

from aloraserve.errors import StartError
from aloraserve_services.cli.console import out
from aloraserve_services.cli.options import ChosenSettings, takes_settings
from aloraserve_services.local import run_file

STOP_TIMEOUT_S = 60


@takes_settings("state_dir")
def down(chosen: ChosenSettings) -> None:
    """Stop the platform that `aloraserve up` started."""
    settings = chosen.load()
    running = run_file.read(settings.state_dir)
    process = running.process() if running else None
    if process is None:
        out.print(f"no platform runs in {settings.state_dir}")
        return
    try:
        process.terminate()
        process.wait(STOP_TIMEOUT_S)
    except psutil.NoSuchProcess:
        pass
    except psutil.AccessDenied:
        raise StartError(f"process {process.pid} belongs to another user") from None
    except psutil.TimeoutExpired:
        raise StartError(f"process {process.pid} did not end within {STOP_TIMEOUT_S} s") from None
    out.print("stopped")
