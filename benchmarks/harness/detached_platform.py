"""A platform in processes of its own, started by ``aloraserve up --detach`` and stopped at the end."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from aloraserve.errors import StartError
from aloraserve_services.cli.own_platform import free_port
from aloraserve_services.local import run_file
from aloraserve_services.local.run_file import Running

COMMAND = (sys.executable, "-m", "aloraserve_services.cli.main")
START_TIMEOUT_S = 600
STOP_TIMEOUT_S = 120


@contextlib.contextmanager
def detached_platform(
    *flags: str, state_dir: Path, variables: Mapping[str, str] | None = None, checkout: Path | None = None
) -> Iterator[Running]:
    """Run a platform for the time of the context; yield its address and its process.

    Args:
        flags: of ``aloraserve up``, beside those of port and state folder.
        state_dir: where its run file is.
        variables: of the environment, beside those of this process.
        checkout: of this project, whose platform it is to be; this one by default.

    Raises:
        StartError: it does not start; has what it said.
    """
    same = ("--state-dir", str(state_dir))
    environment = {**os.environ, **(variables or {}), **({} if checkout is None else sources_of(checkout))}
    up = [*COMMAND, "up", "--detach", "--port", str(free_port()), *same, *flags]
    with subprocess.Popen(  # noqa: S603
        up, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as starting:
        try:
            _, errors = starting.communicate(timeout=START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise StartError(f"the platform did not start within {START_TIMEOUT_S} s") from None
        finally:
            # If it still runs, it ends what it was starting.
            starting.terminate()
    running = run_file.read(state_dir)
    if starting.returncode or running is None:
        raise StartError(f"the platform does not start: {errors[-1500:]}")
    try:
        yield running
    finally:
        subprocess.run(  # noqa: S603
            [*COMMAND, "down", *same], env=environment, capture_output=True, timeout=STOP_TIMEOUT_S
        )


def sources_of(checkout: Path) -> dict[str, str]:
    """Return the variable that has Python take this project from another checkout, with this environment's packages.

    Raises:
        StartError: that folder is not a checkout of this project.
    """
    roots = [checkout / root for root in ("platform", "services", "platform/vllm-alora", "")]
    if not (roots[1] / "aloraserve_services").is_dir():
        raise StartError(f"{checkout} is not a checkout of this project: it has no services/aloraserve_services")
    return {"PYTHONPATH": os.pathsep.join(str(root.absolute()) for root in roots)}
