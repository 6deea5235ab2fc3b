"""``aloraserve up``: the platform on this machine, in the foreground or detached."""

from __future__ import annotations

import asyncio
import functools
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from aloraserve.errors import PartLostError, SettingsError, StartError
from aloraserve.settings import Settings
from aloraserve.telemetry.log_files import begin_log_folder, open_log
from aloraserve_services.cli.console import EXIT_FAILED, EXIT_SETTINGS, Steps, err, out
from aloraserve_services.cli.log_paths import log_folder, own_log
from aloraserve_services.cli.options import ChosenSettings, takes_settings
from aloraserve_services.local import run_file
from aloraserve_services.local.address import base_url, check_ports
from aloraserve_services.local.processes import reap_orphans

if TYPE_CHECKING:
    from aloraserve.adapters import RefusedAdapter, ServedName
    from aloraserve_services.local.platform import LocalPlatform
    from aloraserve_services.plan import FleetPlan

STOP_TIMEOUT_S = 60
POLL_S = 0.25
MAX_NAMES_SHOWN = 20


@takes_settings(
    *("model", "replicas", "gateways", "host", "port", "grpc_port", "redis_url", "adapters_dir", "state_dir"),
    *("dtype", "policy", "engine", "calibration"),
)
def up(
    chosen: ChosenSettings,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once it is ready; it runs on.")] = False,
) -> None:
    """Start the platform and keep it running, until Ctrl-C or `aloraserve down`."""
    settings = chosen.load()
    if detach:
        _start_detached(settings)
    else:
        _run(settings)


def _run(settings: Settings) -> None:
    from aloraserve_services.local.platform import local_platform
    from aloraserve_services.models.shipped_adapters import default_adapters

    adapters_dir = functools.partial(default_adapters, settings)
    settings = settings.model_copy(update={"log_dir": log_folder(settings)})
    with run_file.held(settings.state_dir, base_url(settings)):
        begin_log_folder(log_folder(settings))
        with local_platform(settings, adapters_dir=adapters_dir, keeps_usage=True, progress=Steps()) as platform:
            _serve(platform, embedded="" if settings.redis_url else platform.settings.redis_address)


def _serve(platform: LocalPlatform, embedded: str) -> None:
    """Say that a platform is ready, and have it run until a signal ends it.

    Args:
        platform: that runs.
        embedded: URL of its embedded Redis, empty with another one.
    """
    plan, settings = platform.plan, platform.settings
    served, refusals = asyncio.run(_adapters(plan))
    for refused in refusals:
        err.print(f"adapter refused: {refused.name}: {refused.reason}", style="red", markup=False, soft_wrap=True)
    for warning in meaningless_answers(served, settings):
        out.print(warning, markup=False, soft_wrap=True)
    run_file.mark_ready(settings.state_dir, platform.url, settings.stop_s, settings.tls_certificate, embedded)
    names = _shown([each.name for each in served])
    out.print(f"serving {plan.served_name} and {names}; stop with Ctrl-C or `aloraserve down`")
    try:
        while True:
            reap_orphans()
            if platform.check():
                run_file.note_redis_restart(settings.state_dir)
            time.sleep(1)
    except PartLostError as error:
        _give_up(error, settings.state_dir)
    except KeyboardInterrupt:
        out.print("no new calls are taken; running answers end first, a second signal ends at once")
        platform.drain()
        raise


def _give_up(error: PartLostError, state_dir: Path) -> NoReturn:
    """End at once: without a part of it Ray would have this process wait, or end it. The watchdog ends the rest."""
    err.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
    run_file.path_in(state_dir).unlink(missing_ok=True)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(EXIT_FAILED)


async def _adapters(plan: FleetPlan) -> tuple[Sequence[ServedName], Sequence[RefusedAdapter]]:
    registry = plan.open_registry()
    await registry.begin()
    await registry.close()
    return registry.listed(), registry.refused()


def meaningless_answers(served: Sequence[ServedName], settings: Settings) -> Iterator[str]:
    """Yield what has to be said of answers that mean nothing.

    Args:
        served: names of the adapters.
        settings: of the platform.
    """
    if settings.engine == "simulated":
        yield "the engines are simulated: all answers are random words, those of trained adapters too"
    untrained = [each.name for each in served if each.version.untrained]
    if untrained:
        yield f"with random weights, so that their judgements mean nothing: {_shown(untrained)}"


def _shown(names: list[str]) -> str:
    more = len(names) - MAX_NAMES_SHOWN
    return (", ".join(names[:MAX_NAMES_SHOWN]) or "no adapters") + (f" and {more} more" if more > 0 else "")


def _start_detached(settings: Settings) -> None:
    other = run_file.read(settings.state_dir)
    if other is not None:
        raise StartError(f"a platform runs already (pid {other.pid}, {other.url}): stop it with `aloraserve down`")
    check_ports(settings)
    run_file.make_state_folder(settings.state_dir)
    log_path = own_log(settings)
    arguments = [argument for argument in sys.argv[1:] if argument not in ("--detach", "-d")]
    if log_path.exists():
        log_path.replace(log_path.with_name(f"{log_path.name}.1"))
    with os.fdopen(open_log(log_path), "wb") as log:
        child = subprocess.Popen(  # noqa: S603
            # Not what lies in the current folder: a folder called redis there is not the library.
            [sys.executable, "-P", "-m", "aloraserve_services.cli.main", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    out.print(f"starting (pid {child.pid}), log in {log_path}")
    try:
        _wait_for(child, settings)
    except KeyboardInterrupt:
        _stop(child)
        raise


def _wait_for(child: subprocess.Popen[bytes], settings: Settings) -> None:
    """Return once the detached platform is ready."""
    while child.poll() is None:
        running = run_file.read(settings.state_dir)
        if running is not None and running.ready:
            out.print(f"ready at {base_url(settings)}")
            return
        time.sleep(POLL_S)
    tail = own_log(settings).read_text("utf-8", "replace").strip().splitlines()[-5:]
    message = "it did not start: " + " | ".join(tail)
    raise SettingsError(message) if child.returncode == EXIT_SETTINGS else StartError(message)


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise StartError(f"process {child.pid} did not end within {STOP_TIMEOUT_S} s") from None
