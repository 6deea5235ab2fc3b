"""``aloraserve``: demo, bench, bench-routing, bench-routing-live, verify-savings, up, status, explain, simulate,
calibrate, down.

Exit codes: 0 done, 1 failed while running, 2 a setting or flag is wrong, 3 the platform could not start,
130 stopped by Ctrl-C.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import psutil
import typer
from rich.console import Console

from aloraserve import __version__
from aloraserve.errors import AloraserveError, SettingsError, StartError
from aloraserve.routing.policies import POLICIES
from aloraserve.settings import Settings, load_settings
from aloraserve_services.cli.simulate import simulate
from aloraserve_services.local import run_file
from aloraserve_services.local.processes import reap_orphans, stop_signals

if TYPE_CHECKING:
    from aloraserve_services.cli.bench_routing_live import LivePlay, LiveResult
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
LIVE_LOOKUP_BUDGET_MS = 200.0
"""Client, engines, Redis and gateway share a few cores: a lookup that waits for one says nothing of the router."""
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
Engine = Annotated[str | None, typer.Option(help="vllm or simulated: no model, a clock.")]
CalibrationName = Annotated[str | None, typer.Option(help="Of simulated engines: a name or a JSON file.")]
Policy = Annotated[
    str | None, typer.Option(help=f"How replicas are chosen: {', '.join(POLICIES)}, or module:attribute of your own.")
]


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


def _clearly(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with clear errors; it keeps its options."""

    @functools.wraps(command)
    def run(*args: object, **options: object) -> None:
        with _clear_errors():
            command(*args, **options)

    return run


class _Steps:
    """Prints what happens and when, seconds since the start."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self, message: str) -> None:
        out.print(f"[dim]{time.monotonic() - self._started:6.1f} s[/dim]  {message}", soft_wrap=True)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aloraserve {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


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
    config: Path | None, json: Path | None, *, port: int | None, **flags: str | float | Path | None
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
    from aloraserve_services.local.platform import authorization, base_url, local_platform

    settings = settings.model_copy(update={"adapters_dir": None})
    with (
        local_platform(settings, adapters_dir=functools.partial(_demo_adapters, settings), progress=_Steps()) as plan,
        TimedClient(base_url(settings), authorization(settings)) as client,
    ):
        yield plan, client


def _demo_adapters(settings: Settings, model_path: Path) -> Path:
    """Write the untrained adapters for a model, unless they are there, and return their folder."""
    from aloraserve_services.models.untrained import write_untrained_adapters

    folder = settings.state_dir / "demo-adapters" / model_path.name
    write_untrained_adapters(folder, model_path)
    return folder


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


@app.command("bench-routing")
def bench_routing(
    replicas: Annotated[int, typer.Option(min=1, max=512, help="Replicas in the directory.")] = 64,
    blocks: Annotated[int, typer.Option(min=10_000, max=20_000_000, help="Distinct blocks in it.")] = 1_000_000,
    rate: Annotated[float, typer.Option(min=1, max=5000, help="Lookups a second.")] = 200.0,
    seconds: Annotated[float, typer.Option(min=1, max=600, help="How long lookups are measured.")] = 20.0,
    seed: Annotated[int, typer.Option(help="Of the conversations and of what is asked.")] = 0,
    redis_url: RedisUrl = None,
    json: Annotated[Path | None, typer.Option(help="Also write the figures to this file.")] = None,
) -> None:
    """Measure block keys, lookups, ingest and memory of the directory on a real server (needs no engine)."""
    import contextlib

    import uvloop

    from aloraserve_services.cli.bench_routing import RoutingBench, bench_server, show_figures, write_figures

    with _clear_errors(), contextlib.nullcontext(redis_url) if redis_url else bench_server() as url:
        run = RoutingBench(str(url), replicas, blocks, rate, seconds, seed, _Steps())
        # As a gateway: Ray runs its workers on uvloop.
        figures = uvloop.run(run.run())
        show_figures(out, figures)
        if json is not None:
            write_figures(json, figures)
            out.print(f"written to {json}")


@app.command("bench-routing-live")
def bench_routing_live(
    policy: Annotated[list[str] | None, typer.Option(help="Repeat it to compare; default: expected-ttft.")] = None,
    rate: Annotated[list[float] | None, typer.Option(help="New conversations a second; default: 3 and 6.")] = None,
    seed: Annotated[int, typer.Option(help="Of the conversations.")] = 0,
    slowdown: Annotated[float, typer.Option(min=1, max=20, help="Stretch engines and workload, not the gateway.")] = 1,
    session_header: Annotated[bool, typer.Option(help="Send each conversation's id as x-session-id.")] = False,
    json: Annotated[Path | None, typer.Option(help="Also write the figures to this file.")] = None,
    replicas: Annotated[int, typer.Option(min=1, max=64, help="Simulated engines.")] = 6,
    calibration: CalibrationName = None,
    block_tokens: Annotated[int, typer.Option(help="Tokens a block.")] = 16,
    config: Config = None,
    model: Model = None,
    port: Port = None,
    state_dir: StateDir = None,
) -> None:
    """Compare policies on simulated engines behind the real gateway, a platform for each policy and rate."""
    with _clear_errors():
        settings = _own_platform_settings(
            config,
            json,
            engine="simulated",
            calibration=calibration,
            lookup_budget_ms=LIVE_LOOKUP_BUDGET_MS,
            block_tokens=block_tokens,
            model=model,
            replicas=replicas,
            port=port,
            state_dir=state_dir,
        )
        from aloraserve_services.cli.bench_routing_live import LivePlay, show_results, write_results

        results: list[LiveResult] = []
        for name in policy or [settings.policy]:
            for one in rate or [3.0, 6.0]:
                chosen = Settings(**settings.model_dump() | {"policy": name})
                results.append(_play_live(chosen, LivePlay(one, seed, session_header, slowdown)))
                show_results(out, results)
        if json is not None:
            write_results(json, results, seed)
            out.print(f"written to {json}")


def _play_live(settings: Settings, play: LivePlay) -> LiveResult:
    import tempfile

    from aloraserve.engine_model.calibration import load
    from aloraserve_services.cli.bench_routing_live import run_live, slowed
    from aloraserve_services.local.platform import authorization, base_url, local_platform

    steps = _Steps()
    with tempfile.TemporaryDirectory(prefix="aloraserve-live-") as folder:
        times = Path(folder) / "calibration.json"
        times.write_text(slowed(load(settings.calibration), play.slowdown).model_dump_json(), "utf-8")
        settings = settings.model_copy(update={"calibration": str(times)})
        with local_platform(settings, adapters_dir=functools.partial(_demo_adapters, settings), progress=steps) as plan:
            steps(f"playing {play.rate_per_s:g} new conversations a second with {settings.policy}")
            return run_live(plan, base_url(settings), authorization(settings), play)


@app.command("verify-savings")
def verify_savings(
    lengths: Annotated[
        str, typer.Option(help="Prompt lengths in tokens, separated by commas.")
    ] = "200,500,1000,2000,4000,7500",
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Conversations a length.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the prompts.")] = 0,
    max_error: Annotated[float, typer.Option(min=0, help="Above this median relative error the exit code is 1.")] = 0.1,
    max_bias: Annotated[
        float, typer.Option(min=0, help="The same for the estimates' sum by the real one, less 1.")
    ] = 0.05,
    url: Annotated[str | None, typer.Option(help="An idle platform that runs; default: one of its own.")] = None,
    json: Annotated[Path | None, typer.Option(help="Also write the figures to this file.")] = None,
    config: Config = None,
    model: Model = None,
    replicas: Replicas = None,
    port: Port = None,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
    dtype: Dtype = None,
) -> None:
    """Check the savings that the platform tells of against those of plain LoRA twins, one call at a time."""
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
        from aloraserve_services.cli.client import TimedClient
        from aloraserve_services.cli.status import fetch
        from aloraserve_services.cli.verify_savings import RESERVED_TOKENS, Target, run_verification, write_json
        from aloraserve_services.local.platform import authorization, base_url

        wanted = _lengths(lengths, settings, RESERVED_TOKENS)
        headers, is_elsewhere = authorization(settings), url is not None
        with contextlib.ExitStack() as stack:
            if url is None:
                stack.enter_context(_demo_platform(settings))
            address = (url or base_url(settings)).rstrip("/")
            target = Target.of(fetch(address, headers, is_elsewhere=is_elsewhere))
            client = stack.enter_context(TimedClient(address, headers, is_elsewhere=is_elsewhere))
            samples, verdict = run_verification(target, client, out, lengths=wanted, rounds=rounds, seed=seed)
        if json is not None:
            write_json(json, target, samples, verdict, seed)
            out.print(f"written to {json}")
        if not verdict.holds(max_error, max_bias):
            err.print(f"above {max_error:.0%} error or {max_bias:.0%} bias", style="red")
            raise typer.Exit(EXIT_FAILED)


def _lengths(text: str, settings: Settings, reserved_tokens: int = 256) -> list[int]:
    most = settings.max_model_len - reserved_tokens
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
    engine: Engine = None,
    calibration: CalibrationName = None,
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
            engine=engine,
            calibration=calibration,
        )
        if detach:
            _start_detached(settings)
        else:
            _run(settings)


def _run(settings: Settings) -> None:
    from aloraserve_services.local.platform import base_url, local_platform

    url = base_url(settings)
    # Adapters of a simulated engine have no effect but on what is reused, so untrained ones will do.
    adapters_dir = functools.partial(_demo_adapters, settings) if settings.engine == "simulated" else None
    running = local_platform(settings, adapters_dir=adapters_dir, progress=_Steps())
    with run_file.held(settings.state_dir, url), running as plan:
        for one in plan.refused:
            err.print(f"adapter refused: {one.name}: {one.reason}", style="red", markup=False, soft_wrap=True)
        names = ", ".join(adapter.name for adapter in plan.adapters) or "no adapters"
        run_file.mark_ready(settings.state_dir, url)
        out.print(f"serving {plan.served_name} and {names}; stop with Ctrl-C or `aloraserve down`")
        while True:
            reap_orphans()
            time.sleep(1)


def _start_detached(settings: Settings) -> None:
    from aloraserve_services.local.platform import check_port

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
    from aloraserve_services.local.platform import base_url

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
    """Show the replicas, what each holds and has resident, and what reuse across adapters saved in the last hour."""
    from aloraserve_services.cli.status import fetch, fetch_savings, show, show_savings
    from aloraserve_services.local.platform import authorization

    with _clear_errors():
        settings = load_settings(config, state_dir=state_dir)
        address = _address(settings, url)
        headers, is_elsewhere = authorization(settings), url is not None
        content = fetch(address.rstrip("/"), headers, is_elsewhere=is_elsewhere)
        savings = fetch_savings(address.rstrip("/"), headers, is_elsewhere=is_elsewhere)
        if json:
            out.print_json(data=content if savings is None else content | {"savings": savings})
            return
        show(out, address, content)
        if savings is not None:
            show_savings(out, savings)


def _address(settings: Settings, url: str | None) -> str:
    """Return the platform to ask: the one at ``url``, else the one of the state folder."""
    running = run_file.read(settings.state_dir)
    address = url or (running.url if running else None)
    if address is None:
        raise StartError(f"no platform runs in {settings.state_dir}: start one with `aloraserve up`")
    return address


@app.command()
def explain(
    request_id: Annotated[str, typer.Argument(help="Of the answer: its x-request-id header.")],
    config: Config = None,
    state_dir: StateDir = None,
    url: Annotated[str | None, typer.Option(help="Address of a platform elsewhere.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show why a request went to its replica: the candidates, what was expected of each, and what came of it."""
    from aloraserve_services.cli.explain import admin_authorization, fetch_receipt, show_receipt

    with _clear_errors():
        settings = load_settings(config, state_dir=state_dir)
        address = _address(settings, url).rstrip("/")
        receipt = fetch_receipt(address, request_id, admin_authorization(settings), is_elsewhere=url is not None)
        if json:
            out.print_json(data=receipt)
        else:
            show_receipt(out, receipt)


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


app.command()(_clearly(simulate))


@app.command()
def calibrate(
    output: Annotated[Path, typer.Option(help="File to write.")] = Path("calibration.json"),
    name: Annotated[str, typer.Option(help="The calibration's name.")] = "measured",
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Times a length; medians count.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the prompts.")] = 0,
    config: Config = None,
    model: Model = None,
    port: Port = None,
    state_dir: StateDir = None,
    dtype: Dtype = None,
) -> None:
    """Time an engine of this machine for `simulate`: prefill, decoding, adapters, and the way through HTTP."""
    with _clear_errors():
        settings = _own_platform_settings(
            config, output, model=model, replicas=1, port=port, state_dir=state_dir, dtype=dtype
        )
        from aloraserve_services.cli.calibrate import calibration, engine_figures, overhead_s, write_calibration
        from aloraserve_services.plan import make_plan

        steps = _Steps()
        plan = make_plan(settings, adapters_dir=functools.partial(_demo_adapters, settings), progress=steps)
        figures = engine_figures(plan, rounds=rounds, seed=seed, progress=steps)
        found = calibration(plan, name, figures)
        with _demo_platform(settings) as (running, client):
            overhead = overhead_s(running, client, found.prefill.model.seconds, seed)
        found = found.model_copy(update={"overhead_s": overhead})
        write_calibration(output, found)
        out.print_json(found.model_dump_json())
        out.print(f"written to {output}")


if __name__ == "__main__":
    app()
