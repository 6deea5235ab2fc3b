"""``python -m loadtests``: start a platform, play the load test on it, write the report."""

from __future__ import annotations

import platform as machine_facts
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

# Before anything that opens sockets: locust makes them cooperative.
import locust  # noqa: F401
import typer
from rich.console import Console

from loadtests import report
from loadtests.local import PlatformError, local_platform
from loadtests.plan import LoadPlan, Phase, api_key, full_phases, quick_phases
from loadtests.runner import play_phase
from loadtests.samples import Samples
from loadtests.stage import NotServedError
from loadtests.transport import CallError
from loadtests.transport.http import HttpTransport

EXIT_FAILED, EXIT_FLAGS, EXIT_START, EXIT_INTERRUPTED = 1, 2, 3, 130
UNROUTED_POLICY = "round-robin"
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
    engine: Annotated[str, typer.Option(help="vllm or simulated, of a platform that is started.")] = "vllm",
    replicas: Annotated[int, typer.Option(min=1, max=64, help="Of a platform that is started.")] = 2,
    state_dir: Annotated[Path | None, typer.Option(help="Models and adapters; default: the platform's own.")] = None,
    phase: Annotated[list[str] | None, typer.Option(help="Only phases of these names.")] = None,
    arm: Annotated[list[str] | None, typer.Option(help="Only these arms.")] = None,
    length: Annotated[list[int] | None, typer.Option(help="These prompt lengths instead.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="So many samples instead.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is random.")] = 0,
    data: Annotated[Path | None, typer.Option(help="MTRAG-UN tasks to take documents from.")] = None,
    trace: Annotated[Path | None, typer.Option(help="A Mooncake trace; default: a generated one.")] = None,
    trace_rows: Annotated[int, typer.Option(min=1, max=100_000, help="Base calls of the trace.")] = 40,
    rate_scale: Annotated[float, typer.Option(min=0.001, max=1000, help="Of the trace's arrivals.")] = 1.0,
    check: Annotated[bool, typer.Option(help="Exit with 1 if a figure is missed.")] = False,
) -> None:
    """Play a load test and write report.html, report.json and samples.csv.

    One that ends early reports what it has.
    """
    samples, facts = Samples(), _facts(engine, replicas, url)
    code = 0
    try:
        phases = _phases(profile, phase, arm, length, count)
        plan = LoadPlan(phases, seed, data=data, trace=trace, trace_rows=trace_rows, rate_scale=rate_scale)
        for is_routed in (True, False):
            given = url if is_routed else unrouted_url
            _play(plan, is_routed, given, bool(url), samples, (engine, replicas, state_dir or _state_dir()))
    except (ValueError, NotServedError) as error:
        code, facts["ended early"] = EXIT_FLAGS, f"error: {error}"
    except (PlatformError, CallError) as error:
        code, facts["ended early"] = EXIT_START, f"error: {error}"
    except KeyboardInterrupt:
        code, facts["ended early"] = EXIT_INTERRUPTED, "interrupted"
    if code:
        say(facts["ended early"])
    if samples or not code:
        content = report.write(folder, plan, samples, facts)
        _tell(content, folder)
        if check and not code and not all(one["met"] for one in content["checks"]):
            code = EXIT_FAILED
    raise typer.Exit(code)


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
    for one in profiles[profile]():
        if names and one.name not in names:
            continue
        kept = tuple(arm for arm in one.arms if not arms or arm in arms)
        if kept:
            found.append(replace(one, arms=kept, lengths=tuple(lengths or one.lengths), count=count or one.count))
    if not found:
        raise ValueError("no phase is left: look at --phase and --arm")
    return tuple(found)


def _play(
    plan: LoadPlan,
    is_routed: bool,
    given: str | None,
    is_elsewhere: bool,
    samples: Samples,
    own: tuple[str, int, Path],
) -> None:
    """Play the phases that need a platform of one kind, on a given one or on ones that are started for it."""
    parts = [one for phase in plan.phases if (one := phase.routed if is_routed else phase.unrouted)]
    if given:
        _play_on(plan, parts, given, samples)
        return
    if is_elsewhere and not is_routed:
        if parts:
            say("alora-no-router is left out: it needs --unrouted-url, a platform with --policy round-robin")
        return
    engine, replicas, state_dir = own
    for kv_cache_gib in dict.fromkeys(one.kv_cache_gib for one in parts):
        policy = "expected-ttft" if is_routed else UNROUTED_POLICY
        say(
            f"starting {replicas} {engine} replicas, policy {policy}"
            + (f", {kv_cache_gib} GiB KV" if kv_cache_gib else "")
        )
        with local_platform(
            engine=engine, replicas=replicas, policy=policy, state_dir=state_dir, kv_cache_gib=kv_cache_gib
        ) as url:
            _play_on(plan, [one for one in parts if one.kv_cache_gib == kv_cache_gib], url, samples)


def _play_on(plan: LoadPlan, phases: list[Phase], url: str, samples: Samples) -> None:
    transport = HttpTransport(url, api_key())
    try:
        for one in phases:
            play_phase(plan, one, transport, samples, say)
    finally:
        transport.close()


def _state_dir() -> Path:
    from aloraserve.settings import default_state_dir

    return default_state_dir()


def _facts(engine: str, replicas: int, url: str | None) -> dict[str, str]:
    from aloraserve_services.models.hardware import describe_machine

    what = f"a running platform ({machine_facts.system()} client)" if url else f"{replicas} {engine} replicas"
    return {
        "platform": what,
        "model": "SmolLM2-135M-Instruct" if not url else "the platform's own",
        "machine": describe_machine(),
    }


def _tell(content: dict[str, object], folder: Path) -> None:
    from rich.table import Table

    table = Table(title="LoRA : aLoRA", title_justify="left", box=None, padding=(0, 1, 0, 0))
    for head in ("pipeline", "step", "state", "tokens", "n", "TTFT", "E2E"):
        table.add_column(head, justify="left" if head in ("pipeline", "step", "state") else "right", no_wrap=True)
    ratios: list[dict[str, object]] = content["ratios"]  # type: ignore[assignment]
    for one in ratios:
        shown = [str(one[name]) for name in ("pipeline", "step", "state", "prompt_tokens", "n")]
        table.add_row(*shown, report.spread(one["ttft"]), report.spread(one["e2e"]))
    out.print(table)
    checks: list[dict[str, object]] = content["checks"]  # type: ignore[assignment]
    for check in checks:
        say(f"{'met' if check['met'] else 'MISSED'}: {check['name']}: {check['found']} (wanted {check['wanted']})")
    say(f"report: {folder / 'report.html'}")


if __name__ == "__main__":
    sys.exit(app())
