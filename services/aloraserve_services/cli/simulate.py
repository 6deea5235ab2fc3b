"""``aloraserve simulate``: routers compared on a modelled fleet, in simulated time."""

from __future__ import annotations

import contextlib
import json as jsons
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from aloraserve.engine_model.calibration import Calibration
from aloraserve.engine_model.calibration import load as load_calibration
from aloraserve.engine_model.calibration import parse as parse_calibration
from aloraserve.errors import SettingsError
from aloraserve.routing.cost_model import TPOT_OBJECTIVE_S
from aloraserve.routing.scheduling import AGEING, Scheduling
from aloraserve.scaling.base import ScalingRules
from aloraserve.simulation.faults import parse_faults
from aloraserve.simulation.load_shapes import SHAPES
from aloraserve.simulation.modelled_engine import Loading
from aloraserve.simulation.plot import write_plot
from aloraserve.simulation.router_names import chosen_names
from aloraserve.simulation.scaling_study import SCALERS
from aloraserve.simulation.study import PolicyFigures, StudyProgress, StudySettings, parse_seeds, run_study
from aloraserve.simulation.workload import WorkloadSettings
from aloraserve_services.cli.simulate_against import show_against
from aloraserve_services.cli.simulate_scaling import ScalingOptions, refuse_with_scalers, run_scaling, show_scaling

GENERATED = "generated"
DEFAULT_POLICY = "expected-ttft"
TABLE_WIDTH = 150
_PLAIN_EVERY_S = 10.0


def simulate(
    trace: Annotated[str, typer.Option(help=f'Mooncake-format JSONL, or "{GENERATED}".')] = GENERATED,
    replicas: Annotated[int, typer.Option(help="Modelled engines.")] = 8,
    gateways: Annotated[int, typer.Option(help="Gateways of the platform's own router.")] = 1,
    kv_tokens: Annotated[int | None, typer.Option(help="KV cache of each; default: as in the calibration.")] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(help='Routers, several or separated by commas, "all", or module:attribute of your own policy.'),
    ] = None,
    rate_scale: Annotated[float | None, typer.Option(help="Turns come so much faster than in the trace.")] = None,
    load: Annotated[float | None, typer.Option(help="Sets the rate: share of saturation, 0.8 for 80 %.")] = None,
    evaluators: Annotated[int, typer.Option(help="Adapter calls after each answer.")] = 3,
    lora_share: Annotated[float, typer.Option(help="Share of them that are plain LoRA.")] = 1 / 3,
    adapters: Annotated[int, typer.Option(help="Distinct adapters of each kind.")] = 4,
    adapter_skew: Annotated[
        float, typer.Option(help="Exponent of Zipf's law in how often each is called; 0: all alike.")
    ] = 0.0,
    adapter_slots: Annotated[
        int | None, typer.Option(help="Distinct adapters that one engine runs at once; default: the calibration's.")
    ] = None,
    adapters_loaded: Annotated[
        int | None, typer.Option(help="Adapters in the memory of each replica's host; default: the calibration's.")
    ] = None,
    adapter_loading: Annotated[
        str, typer.Option(help="Who loads adapters: the platform before the call, or the engine amid a step, as vLLM.")
    ] = "platform",
    seed: Annotated[int, typer.Option(help="The first seed.")] = 0,
    seeds: Annotated[int, typer.Option(help="Runs with consecutive seeds; gives 95 % intervals.")] = 1,
    block_tokens: Annotated[int, typer.Option(help="Tokens per block; divides 512.")] = 64,
    calibration: Annotated[
        str, typer.Option(help="Engine times: a JSON file, h100-llama-3.1-8b or cpu-smollm2.")
    ] = "h100-llama-3.1-8b",
    requests: Annotated[int | None, typer.Option(help="Only the first so many turns.")] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            help="kill:3@60, restart:3@90, redis-outage@100-130, redis-delay:0.005, event-delay:0.5, event-loss:0.01; "
            "several."
        ),
    ] = None,
    scheduling_policy: Annotated[
        str, typer.Option(help="Order in which every engine begins its waiting calls: priority or fcfs.")
    ] = "priority",
    priority_ageing: Annotated[
        float, typer.Option(help="Seconds of prefill that a second of waiting makes up for.")
    ] = AGEING,
    tpot_objective_ms: Annotated[
        float, typer.Option(help="Time per output token above which the platform charges calls; 0: never.")
    ] = 1000 * TPOT_OBJECTIVE_S,
    scaler: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Autoscalers, in the place of routers: {', '.join(SCALERS)}; several. NAME:TARGET:DOWN_S sets them."
        ),
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help=f"With scalers: how many calls come over time, {', '.join(SHAPES)}.")
    ] = None,
    start_s: Annotated[float, typer.Option(min=0, max=3600, help="With scalers: a replica is up after.")] = 30.0,
    ttft_objective_s: Annotated[
        float, typer.Option(min=0.01, max=600, help="With scalers: objective of the first token.")
    ] = 1.0,
    plot: Annotated[Path | None, typer.Option(help="Also draw the comparison to this .html or .svg file.")] = None,
    json: Annotated[Path | None, typer.Option(help="Also write the figures to this file.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="What `demo --json` wrote: estimate its TTFTs and compare, nothing else.")
    ] = None,
) -> None:
    """Compare routers on a modelled fleet: TTFT, hits against the bounds, balance; or autoscalers, with --scaler."""
    for path in (plot, json):
        if path is not None and not path.absolute().parent.is_dir():
            raise SettingsError(f"{path} cannot be written: its folder does not exist")
    if plot is not None and plot.suffix not in (".html", ".svg"):
        raise SettingsError(f"plot is {str(plot)!r}; a name that ends in .html or .svg is accepted")
    out, err = Console(highlight=False), Console(stderr=True, highlight=False)
    # A folded table is not readable: without a terminal, or on a narrow one, its lines are longer.
    out.width = max(out.width, TABLE_WIDTH)
    times = _with_adapters(load_calibration(calibration), adapter_slots, adapters_loaded)
    if against is not None:
        show_against(out, against, times, chosen_names(policy or [DEFAULT_POLICY])[0], json)
        return
    if rate_scale is not None and load is not None:
        raise SettingsError("rate_scale and load are both given; one of them sets the rate")
    settings = StudySettings(
        policies=tuple(chosen_names(policy or [DEFAULT_POLICY])),
        calibration=times,
        trace=None if trace == GENERATED else Path(trace),
        requests=requests,
        replicas=replicas,
        kv_tokens=kv_tokens,
        workload=WorkloadSettings(
            evaluators=evaluators,
            lora_share=lora_share,
            adapters=adapters,
            adapter_skew=adapter_skew,
            block_tokens=block_tokens,
            rate_scale=1.0 if rate_scale is None else rate_scale,
            seed=seed,
        ),
        load=load,
        seeds=parse_seeds(seed, seeds),
        faults=parse_faults(fault or [], replicas),
        scheduling=_scheduling(scheduling_policy, priority_ageing),
        tpot_objective_s=tpot_objective_ms / 1000,
        gateways=gateways,
        loading=_loading(adapter_loading),
    )
    if scaler:
        refuse_with_scalers(policy=policy, load=load, fault=fault, plot=plot, gateways=gateways > 1)
        rules = ScalingRules(1, replicas, ttft_objective_s, tpot_objective_ms / 1000)
        options = ScalingOptions(scaler, rules, start_s, shape, settings)
        with show_progress(err) as on_progress:
            played = run_scaling(options, on_progress)
        show_scaling(out, options, played, json)
        return
    if shape is not None:
        raise SettingsError("shape is given without scaler; routers are compared on the trace as it is")
    started = time.monotonic()
    with show_progress(err) as on_progress:
        figures = run_study(settings, on_progress=on_progress)
    _show(out, settings, figures, time.monotonic() - started)
    if json is not None:
        json.write_text(jsons.dumps(_content(settings, figures), indent=2))
        out.print(f"written to {json}")
    if plot is not None:
        write_plot(plot, figures, title(settings, figures))
        out.print(f"drawn to {plot}")


def _with_adapters(times: Calibration, slots: int | None, loaded: int | None) -> Calibration:
    """Return the calibration with room for other numbers of adapters."""
    given = {name: value for name, value in (("slots", slots), ("resident", loaded)) if value is not None}
    content = times.model_dump() | {"adapters": times.adapters.model_dump() | given}
    return parse_calibration(jsons.dumps(content), "with --adapter-slots and --adapters-loaded")


def _loading(name: str) -> Loading:
    if name not in get_args(Loading):
        raise SettingsError(f"adapter_loading is {name!r}; {' or '.join(get_args(Loading))} is accepted")
    return cast(Loading, name)


def _scheduling(policy: str, ageing: float) -> Scheduling:
    try:
        return Scheduling(policy, ageing)  # type: ignore[arg-type]  # it refuses what is not one
    except ValueError as error:
        raise SettingsError(f"scheduling: {error}") from None


@contextlib.contextmanager
def show_progress(console: Console) -> Iterator[Callable[[StudyProgress], None]]:
    """Show a bar on a terminal, a line now and then elsewhere."""
    if not console.is_terminal:
        last = time.monotonic()

        def line(progress: StudyProgress) -> None:
            nonlocal last
            if time.monotonic() - last >= _PLAIN_EVERY_S:
                last = time.monotonic()
                console.print(f"{progress.share:4.0%}  {progress.label}", soft_wrap=True)

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda progress: bar.update(task, completed=progress.share, description=progress.label)


def title(settings: StudySettings, figures: list[PolicyFigures]) -> str:
    """Return one line on what was simulated."""
    means = figures[0].means
    origin = settings.trace.name if settings.trace is not None else "generated trace"
    at = f"load {settings.load:.0%}, " if settings.load is not None else ""
    return (
        f"{origin}, {means['calls']:,.0f} calls, {at}rate x{means['rate_scale']:.3g}; "
        f"{settings.replicas} replicas of {settings.fleet(0).kv_tokens_each:,} KV tokens ({settings.calibration.name})"
    )


def _show(console: Console, settings: StudySettings, figures: list[PolicyFigures], took_s: float) -> None:
    table = Table(title=title(settings, figures), title_justify="left", box=SIMPLE)
    for head in ("policy", "TTFT mean", "p50", "p90", "p99", "E2E p50", "p90", "p99", "hits", "imbalance", "loads"):
        table.add_column(head, justify="left" if head == "policy" else "right", no_wrap=True)
    best = min(of_policy.means["ttft_p90_s"] for of_policy in figures)
    for of_policy in figures:
        means = of_policy.means
        cells = [of_policy.policy]
        cells += [_seconds(of_policy, f"ttft_{which}_s") for which in ("mean", "p50", "p90", "p99")]
        cells += [_seconds(of_policy, f"e2e_{which}_s") for which in ("p50", "p90", "p99")]
        cells += [f"{means['hit_rate']:.3f}", f"{means['imbalance']:.2f}", f"{means['adapter_loads']:,.0f}"]
        table.add_row(*cells, style="bold" if means["ttft_p90_s"] == best else None)
    console.print(table)
    means = figures[0].means
    console.print(
        f"hits are shares of prompt tokens; one infinite cache {means['oracle_hit_rate']:.3f}, one of the fleet's size "
        f"{means['pooled_hit_rate']:.3f}. {len(settings.seeds)} seed(s), {took_s:.0f} s.",
        soft_wrap=True,
    )
    for of_policy in figures:
        names = [name for name in ("failed", "cut", "resent", "fallbacks") if of_policy.means[name]]
        lost = [f"{of_policy.means[name]:,.0f} {name}" for name in names]
        if lost:
            console.print(f"{of_policy.policy}: {', '.join(lost)}", soft_wrap=True)


def _seconds(figures: PolicyFigures, name: str) -> str:
    half = figures.intervals.get(name)
    return f"{figures.means[name]:.3f}" + ("" if half is None else f"±{half:.3f}")


def _content(settings: StudySettings, figures: list[PolicyFigures]) -> dict[str, Any]:
    return {
        "settings": {
            "trace": str(settings.trace) if settings.trace else GENERATED,
            "requests": settings.requests,
            "replicas": settings.replicas,
            "gateways": settings.gateways,
            "kv_tokens": settings.fleet(0).kv_tokens_each,
            "load": settings.load,
            "seeds": list(settings.seeds),
            "calibration": settings.calibration.name,
            "workload": asdict(settings.workload),
            "scheduling": asdict(settings.scheduling),
            "loading": settings.loading,
            "adapters": settings.calibration.adapters.model_dump(),
            "tpot_objective_ms": 1000 * settings.tpot_objective_s,
            "faults": [asdict(fault) | {"end_s": min(fault.end_s, 1e12)} for fault in settings.faults],
        },
        "policies": [of_policy.to_json() for of_policy in figures],
    }
