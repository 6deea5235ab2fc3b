"""``python -m loadtests``: start a platform, play the load test on it, write the report."""

from __future__ import annotations

import platform as machine_facts
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

try:
    # Before anything that opens sockets: locust makes them cooperative.
    import locust  # noqa: F401
except ModuleNotFoundError as error:
    sys.exit(f'error: the load tests need {error.name}: pip install ".[loadtest]", or `make install-dev`')
import typer
from rich.console import Console

from aloraserve.errors import StartError
from aloraserve.settings import default_state_dir
from aloraserve.wire.answer_stream import CallFailedError
from aloraserve_services.cli.console import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_SETTINGS, EXIT_START
from aloraserve_services.models.hardware import describe_machine
from benchmarks.harness.report import make_table
from loadtests import report
from loadtests.plan import LoadPlan, Phase, full_phases, quick_phases
from loadtests.session import Session
from loadtests.time_fit import time_limit
from loadtests.warm_up import NotServedError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
out = Console(highlight=False, width=max(Console().width, 110))


def say(text: str) -> None:
    """Print a line of progress."""
    out.print(text, markup=False, soft_wrap=True)


@app.command()
def main(
    profile: Annotated[str, typer.Option(help="quick, full or trace.")] = "quick",
    folder: Annotated[Path, typer.Option("--out", help="Where the report goes.")] = Path("loadtest-report"),
    url: Annotated[str | None, typer.Option(help="A running platform; default: one is started.")] = None,
    unrouted_url: Annotated[str | None, typer.Option(help="One with --policy round-robin.")] = None,
    transport: Annotated[str, typer.Option(help="http or grpc: how calls are made.")] = "http",
    grpc_target: Annotated[str | None, typer.Option(help="host:port of that platform's gRPC API.")] = None,
    engine: Annotated[str, typer.Option(help="vllm or simulated, of a platform that is started.")] = "vllm",
    replicas: Annotated[int, typer.Option(min=1, max=64, help="Of a platform that is started.")] = 2,
    state_dir: Annotated[Path | None, typer.Option(help="Models and adapters; default: the platform's own.")] = None,
    phase: Annotated[list[str] | None, typer.Option(help="Only phases of these names.")] = None,
    arm: Annotated[list[str] | None, typer.Option(help="Only these arms.")] = None,
    length: Annotated[list[int] | None, typer.Option(help="These prompt lengths instead.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="So many samples instead.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything that is random.")] = 0,
    data: Annotated[Path | None, typer.Option(help="MTRAG-UN tasks to take documents from.")] = None,
    trace: Annotated[Path | None, typer.Option(help="A Mooncake trace; default: a generated one.")] = None,
    trace_rows: Annotated[int, typer.Option(min=1, max=100_000, help="Base calls of the trace.")] = 40,
    rate_scale: Annotated[float, typer.Option(min=0.001, max=1000, help="Of the trace's arrivals.")] = 1.0,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=1, max=10_000, help="Fit the quick profile to this time; default: 10, or no limit with --count."
        ),
    ] = None,
    check: Annotated[bool, typer.Option(help="Exit with 1 if a figure is missed.")] = False,
) -> None:
    """Play a load test and write report.html, report.json and samples.csv.

    The quick profile measures the prefill rate first and plays as much of its plan as the time allows. One that ends
    early reports what it has.
    """
    facts = _facts(engine, replicas, url) | {"transport": transport}
    session, code = None, 0
    try:
        _check_transport(transport, grpc_target, url, unrouted_url)
        limit = time_limit(profile, minutes, count)
        phases = _phases(profile, phase, arm, length, count)
        plan = LoadPlan(phases, seed, data=data, trace=trace, trace_rows=trace_rows, rate_scale=rate_scale)
        folder_of_state = state_dir or default_state_dir()
        session = Session(
            plan, limit, url, unrouted_url, engine, replicas, folder_of_state, transport, grpc_target, say
        )
        session.play()
    except (ValueError, NotServedError) as error:
        code, facts["ended early"] = EXIT_SETTINGS, f"error: {error}"
    except (StartError, CallFailedError) as error:
        code, facts["ended early"] = EXIT_START, f"error: {error}"
    except KeyboardInterrupt:
        code, facts["ended early"] = EXIT_INTERRUPTED, "interrupted"
    if code:
        say(facts["ended early"])
    if session and (session.samples or not code):
        if session.fitted:
            facts["time"] = session.fitted
        content = report.write(folder, session.plan, session.samples, facts)
        _show(content, folder)
        if check and not code and not all(check["met"] for check in content["checks"]):
            code = EXIT_FAILED
    raise typer.Exit(code)


def _check_transport(transport: str, grpc_target: str | None, url: str | None, unrouted_url: str | None) -> None:
    """Raise ValueError unless it is known where calls go."""
    if transport not in ("http", "grpc"):
        raise ValueError(f"transport is {transport[:40]!r}; http or grpc is accepted")
    if transport == "http" and grpc_target:
        raise ValueError("grpc_target is accepted with --transport grpc only")
    if transport == "grpc" and unrouted_url:
        raise ValueError("unrouted_url is accepted with --transport http only")
    if transport == "grpc" and (url is None) != (grpc_target is None):
        raise ValueError("over gRPC a running platform needs both --url and --grpc-target")


def _phases(
    profile: str, names: list[str] | None, arms: list[str] | None, lengths: list[int] | None, count: int | None
) -> tuple[Phase, ...]:
    profiles: dict[str, Callable[[], tuple[Phase, ...]]] = {
        "quick": quick_phases,
        "full": full_phases,
        "trace": lambda: (Phase("trace", "trace", ("lora", "alora"), lengths=(500,)),),
    }
    if profile not in profiles:
        raise ValueError(f"profile is {profile!r}; {', '.join(profiles)} are accepted")
    found = []
    for phase in profiles[profile]():
        if names and phase.name not in names:
            continue
        kept = tuple(arm for arm in phase.arms if not arms or arm in arms)
        if kept:
            lengths_played, count_played = tuple(lengths or phase.lengths), count or phase.count
            found.append(replace(phase, arms=kept, lengths=lengths_played, count=count_played))
    if not found:
        raise ValueError("no phase is left: look at --phase and --arm")
    return tuple(found)


def _facts(engine: str, replicas: int, url: str | None) -> dict[str, str]:
    what = f"a running platform ({machine_facts.system()} client)" if url else f"{replicas} {engine} replicas"
    return {
        "platform": what,
        "model": "SmolLM2-135M-Instruct" if not url else "the platform's own",
        "machine": describe_machine(),
    }


def _show(content: dict[str, object], folder: Path) -> None:
    heads, left = ("pipeline", "step", "state", "tokens", "n", "TTFT", "E2E"), ("pipeline", "step", "state")
    table = make_table("LoRA : aLoRA", heads, left=left, box=None, padding=(0, 1, 0, 0))
    ratios: list[dict[str, object]] = content["ratios"]  # type: ignore[assignment]
    for ratio in ratios:
        shown = [str(ratio[name]) for name in ("pipeline", "step", "state", "prompt_tokens", "n")]
        table.add_row(*shown, report.spread(ratio["ttft"]), report.spread(ratio["e2e"]))
    out.print(table)
    checks: list[dict[str, object]] = content["checks"]  # type: ignore[assignment]
    for check in checks:
        say(f"{'met' if check['met'] else 'MISSED'}: {check['name']}: {check['found']} (wanted {check['wanted']})")
    say(f"report: {folder / 'report.html'}")


if __name__ == "__main__":
    sys.exit(app())
