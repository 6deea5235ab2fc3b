"""``aloraserve``: demo, bench, up, status, down.

Exit codes: 0 done, 1 failed while running, 2 a setting or flag is wrong, 3 the platform could not start,
130 stopped by Ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import psutil
import typer
from rich.console import Console

from aloraserve.errors import AloraserveError, SettingsError, StartError
from aloraserve.settings import Settings, load_settings
from aloraserve_services.cli import run_file
from aloraserve_services.cli.processes import reap_orphans, stop_signals

if TYPE_CHECKING:
    from aloraserve_services.cli.client import TimedClient
    from aloraserve_services.plan import FleetPlan

app = typer.Typer(
    name="aloraserve",
    help="Serve one model with many LoRA and Activated LoRA adapters, and never prefill a conversation twice.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

UP_LOG = "up.log"
EXIT_FAILED, EXIT_SETTINGS, EXIT_START, EXIT_INTERRUPTED = 1, 2, 3, 130

Config = Annotated[Path | None, typer.Option(help="YAML file of settings.", envvar="ALORASERVE_CONFIG")]
Model = Annotated[str | None, typer.Option(help='Model folder, hub id, or "smollm2".')]
Replicas = Annotated[int | None, typer.Option(help="Engine replicas.")]
Host = Annotated[str | None, typer.Option(help="Address of the HTTP API.")]
Port = Annotated[int | None, typer.Option(help="Port of the HTTP API.")]
RedisUrl = Annotated[str | None, typer.Option(help="Redis or Valkey URL; default: an embedded server.")]
AdaptersDir = Annotated[Path | None, typer.Option(help="Folder of PEFT adapters, one subfolder each.")]
StateDir = Annotated[Path | None, typer.Option(help="Where converted models and the run file are kept.")]
Dtype = Annotated[str | None, typer.Option(help="auto, bfloat16 or float32.")]
Policy = Annotated[str | None, typer.Option(help="expected-ttft or round-robin.")]


@contextlib.contextmanager
def _clear_errors() -> Iterator[None]:
    """Turn what can go wrong into one line and an exit code."""
    try:
        with stop_signals():
            yield
    except SettingsError as error:
        err.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(EXIT_SETTINGS) from None
    except StartError as error:
        err.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(EXIT_START) from None
    except (AloraserveError, OSError) as error:
        err.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(EXIT_FAILED) from None
    except KeyboardInterrupt:
        err.print("stopped", style="yellow")
        raise typer.Exit(EXIT_INTERRUPTED) from None


class _Steps:
    """Prints what happens and when, seconds since the start."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self, message: str) -> None:
        out.print(f"[dim]{time.monotonic() - self._started:6.1f} s[/dim]  {message}", soft_wrap=True)


@app.command()
def demo(
    json: Annotated[Path | None, typer.Option(help="Also write calls and summary to this file.")] = None,
    config: Config = None,
    model: Model = None,
    replicas: Replicas = None,
    port: Port = None,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
    dtype: Dtype = None,
    policy: Policy = None,
) -> None:
    """Run a conversation with adapters on a platform of its own and show what was reused."""
    with _clear_errors():
        settings = _own_platform_settings(
            config,
            json,
            model=model,
            replicas=replicas,
            port=port,
            redis_url=redis_url,
            state_dir=state_dir,
            dtype=dtype,
            policy=policy,
        )
        _play_demo(settings, json)


def _own_platform_settings(
    config: Path | None, json: Path | None, *, port: int | None, **flags: str | int | Path | None
) -> Settings:
    """Return the settings of a platform that a command starts for itself, with a result that ``json`` has room for."""
    chosen = port if port is not None else _free_port_unless_set(config)
    settings = load_settings(config, port=chosen, **flags)
    if json is not None and not json.absolute().parent.is_dir():
        raise SettingsError(f"json is {str(json)!r}: its folder does not exist")
    return settings


def _play_demo(settings: Settings, json: Path | None) -> None:
    from aloraserve_services.cli.demo import DemoPlayer
    from aloraserve_services.cli.demo_report import RowPrinter, print_summary, write_json

    with _demo_platform(settings) as (plan, client):
        rows = DemoPlayer(plan, client, RowPrinter(out)).play()
        print_summary(out, rows)
        if json is not None:
            facts = {"model": plan.served_name, "dtype": plan.dtype, "replicas": settings.replicas, "untrained": True}
            write_json(json, rows, facts)
            out.print(f"written to {json}")


@contextlib.contextmanager
def _demo_platform(settings: Settings) -> Iterator[tuple[FleetPlan, TimedClient]]:
    """Run a platform with the untrained adapters, and a client for it."""
    from aloraserve_services.cli.client import TimedClient
    from aloraserve_services.cli.local import authorization, base_url, local_platform
    from aloraserve_services.engine.untrained import write_untrained_adapters

    settings = settings.model_copy(update={"adapters_dir": None})

    def adapters_dir(model_path: Path) -> Path:
        folder = settings.state_dir / "demo-adapters" / model_path.name
        write_untrained_adapters(folder, model_path)
        return folder

    with (
        local_platform(settings, adapters_dir=adapters_dir, progress=_Steps()) as plan,
        TimedClient(base_url(settings), authorization(settings)) as client,
    ):
        yield plan, client


@app.command()
def bench(
    lengths: Annotated[str, typer.Option(help="Prompt lengths in tokens, separated by commas.")] = "500,2000",
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Prompts a length.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the prompts.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Also write the figures to this file.")] = None,
    config: Config = None,
    model: Model = None,
    replicas: Replicas = None,
    port: Port = None,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
    dtype: Dtype = None,
) -> None:
    """Measure TTFT of aLoRA and LoRA through HTTP on a platform of its own."""
    with _clear_errors():
        settings = _own_platform_settings(
            config,
            json,
            model=model,
            replicas=replicas,
            port=port,
            redis_url=redis_url,
            state_dir=state_dir,
            dtype=dtype,
        )
        wanted = _lengths(lengths, settings)
        from aloraserve_services.cli.bench import run_bench, write_json

        with _demo_platform(settings) as (plan, client):
            content = run_bench(plan, client, out, lengths=wanted, rounds=rounds, seed=seed)
        if json is not None:
            write_json(json, content)
            out.print(f"written to {json}")


def _lengths(text: str, settings: Settings) -> list[int]:
    most = settings.max_model_len - 256
    try:
        lengths = [int(one) for one in text.split(",")]
    except ValueError:
        lengths = []
    if not lengths or not all(1 <= one <= most for one in lengths):
        raise SettingsError(f"lengths is {text[:80]!r}; integers from 1 to {most}, separated by commas, are accepted")
    return lengths


def _free_port_unless_set(config: Path | None) -> int | None:
    """Return a free port if none was chosen and the default one is taken: the demo should not fail for that."""
    if "ALORASERVE_PORT" in os.environ or config is not None:
        return None
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(Settings.model_fields["port"].default)))
        except OSError:
            with socket.socket() as other:
                other.bind(("127.0.0.1", 0))
                return int(other.getsockname()[1])
    return None


@app.command()
def up(
    config: Config = None,
    model: Model = None,
    replicas: Replicas = None,
    host: Host = None,
    port: Port = None,
    redis_url: RedisUrl = None,
    adapters_dir: AdaptersDir = None,
    state_dir: StateDir = None,
    dtype: Dtype = None,
    policy: Policy = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once it is ready; it runs on.")] = False,
) -> None:
    """Start the platform and keep it running, until Ctrl-C or `aloraserve down`."""
    with _clear_errors():
        settings = load_settings(
            config,
            model=model,
            replicas=replicas,
            host=host,
            port=port,
            redis_url=redis_url,
            adapters_dir=adapters_dir,
            state_dir=state_dir,
            dtype=dtype,
            policy=policy,
        )
        if detach:
            _start_detached(settings)
        else:
            _run(settings)


def _run(settings: Settings) -> None:
    from aloraserve_services.cli.local import base_url, local_platform

    url = base_url(settings)
    with run_file.held(settings.state_dir, url), local_platform(settings, progress=_Steps()) as plan:
        for one in plan.refused:
            err.print(f"adapter refused: {one.name}: {one.reason}", style="red", markup=False, soft_wrap=True)
        names = ", ".join(adapter.name for adapter in plan.adapters) or "no adapters"
        run_file.mark_ready(settings.state_dir, url)
        out.print(f"serving {plan.served_name} and {names}; stop with Ctrl-C or `aloraserve down`")
        while True:
            reap_orphans()
            time.sleep(1)


def _start_detached(settings: Settings) -> None:
    from aloraserve_services.cli.local import check_port

    other = run_file.read(settings.state_dir)
    if other is not None:
        raise StartError(f"a platform runs already (pid {other.pid}, {other.url}): stop it with `aloraserve down`")
    check_port(settings.host, settings.port)
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    log_path = settings.state_dir / UP_LOG
    arguments = [one for one in sys.argv[1:] if one not in ("--detach", "-d")]
    with log_path.open("wb") as log:
        child = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "aloraserve_services.cli.main", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    out.print(f"starting (pid {child.pid}), log in {log_path}")
    try:
        _wait_for(child, settings)
    except KeyboardInterrupt:
        child.terminate()
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            raise StartError(f"process {child.pid} did not end within 60 s") from None
        raise


def _wait_for(child: subprocess.Popen[bytes], settings: Settings) -> None:
    """Return once the detached platform is ready."""
    from aloraserve_services.cli.local import base_url

    while child.poll() is None:
        running = run_file.read(settings.state_dir)
        if running is not None and running.ready:
            out.print(f"ready at {base_url(settings)}")
            return
        time.sleep(0.25)
    tail = (settings.state_dir / UP_LOG).read_text("utf-8", "replace").strip().splitlines()[-5:]
    message = "it did not start: " + " | ".join(tail)
    raise SettingsError(message) if child.returncode == EXIT_SETTINGS else StartError(message)


@app.command()
def status(
    config: Config = None,
    state_dir: StateDir = None,
    url: Annotated[str | None, typer.Option(help="Address of a platform elsewhere.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the replicas, what each holds, and which adapters it has resident."""
    from aloraserve_services.cli.local import authorization
    from aloraserve_services.cli.status import fetch, show

    with _clear_errors():
        settings = load_settings(config, state_dir=state_dir)
        running = run_file.read(settings.state_dir)
        address = url or (running.url if running else None)
        if address is None:
            raise StartError(f"no platform runs in {settings.state_dir}: start one with `aloraserve up`")
        content = fetch(address.rstrip("/"), authorization(settings), is_elsewhere=url is not None)
        if json:
            out.print_json(data=content)
        else:
            show(out, address, content)


@app.command()
def down(config: Config = None, state_dir: StateDir = None) -> None:
    """Stop the platform that `aloraserve up` started."""
    with _clear_errors():
        settings = load_settings(config, state_dir=state_dir)
        running = run_file.read(settings.state_dir)
        process = running.process() if running else None
        if process is None:
            out.print(f"no platform runs in {settings.state_dir}")
            return
        try:
            process.terminate()
            process.wait(60)
        except psutil.NoSuchProcess:
            pass
        except psutil.AccessDenied:
            raise StartError(f"process {process.pid} belongs to another user") from None
        except psutil.TimeoutExpired:
            raise StartError(f"process {process.pid} did not end within 60 s") from None
        out.print("stopped")


if __name__ == "__main__":
    app()
