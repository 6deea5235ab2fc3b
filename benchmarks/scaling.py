"""``make bench-scaling``: autoscalers on the same calls, router and modelled engines, in simulated time.

Ours has one setting for all traffic. Each of the others is tuned on each traffic: all of its settings here are played
with the first seed, and the best of them with the other seeds, too.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from aloraserve.engine_model.calibration import load as load_calibration
from aloraserve.scaling.base import ScalingRules
from aloraserve.simulation.load_shapes import SHAPES
from aloraserve.simulation.scaled_fleet import Growth
from aloraserve.simulation.scaling_study import (
    ALL,
    HPA,
    KEDA,
    OURS,
    SCALERS,
    SERVE,
    ScalerChoice,
    ScalingStudy,
    parse_scaler,
)
from aloraserve.simulation.workers import Workers
from aloraserve_services.cli.console import clearly, err, out
from aloraserve_services.cli.simulate import show_progress
from benchmarks.harness.command import run_command
from benchmarks.harness.report import make_table, wide, write_json
from benchmarks.scaling_plot import Dot, write_scatter
from benchmarks.scaling_runs import Played, Player, Results, Traffic, best

VARIANTS = (
    ScalerChoice(OURS),
    ScalerChoice(OURS, hand_over_s=0.0),
    ScalerChoice(OURS, by_worth=False, hand_over_s=0.0),
    ScalerChoice(OURS, warm_up_budget_s=0.0),
)
RIVALS = (
    *(ScalerChoice(SERVE, target, 60.0) for target in (4.0, 8.0, 12.0)),
    ScalerChoice(SERVE, 8.0, 180.0),
    ScalerChoice(SERVE, 2.0, 600.0, 30.0),
    *(ScalerChoice(HPA, target, 60.0) for target in (0.2, 0.3, 0.45)),
    ScalerChoice(HPA, 0.3, 300.0),
    *(ScalerChoice(KEDA, target, 60.0, metric="ongoing") for target in (4.0, 8.0, 12.0)),
    ScalerChoice(KEDA, 0.5, 180.0, metric="waiting"),
)
"""Of each the settings around its best ones, and Serve's defaults."""


@clearly
def bench_scaling(
    shape: Annotated[
        list[str] | None, typer.Option(help=f"Of the traffic: {', '.join(SHAPES)}; several. A trace may do without.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Mooncake-format JSONL, in the place of generated traffic.")
    ] = None,
    skip: Annotated[int, typer.Option(min=0, help="Turns of the trace before the first one that is played.")] = 0,
    requests: Annotated[int, typer.Option(min=1, help="Turns of the trace.")] = 3000,
    rate_scale: Annotated[float, typer.Option(help="They come so much faster.")] = 1.5,
    duration: Annotated[float, typer.Option(help="Seconds of generated traffic.")] = 480.0,
    peak: Annotated[float, typer.Option(help="Conversations that start per second at its highest.")] = 2.5,
    seeds: Annotated[int, typer.Option(min=1, max=20, help="Traffic is drawn so many times.")] = 1,
    first_seed: Annotated[int, typer.Option(min=0, help="The first of them.")] = 0,
    max_replicas: Annotated[int, typer.Option(min=1, max=64, help="Engines at most.")] = 8,
    start_s: Annotated[float, typer.Option(min=0, max=3600, help="Time that a replica takes to start.")] = 30.0,
    ttft_objective_s: Annotated[float, typer.Option(min=0.01, max=600, help="Objective of the first token.")] = 1.0,
    tpot_objective_ms: Annotated[float, typer.Option(min=1, max=60_000, help="Of the others.")] = 100.0,
    scaler: Annotated[
        list[str] | None, typer.Option(help="Only these scalers; several. NAME:TARGET:DOWN_S is one of its settings.")
    ] = None,
    variants: Annotated[bool, typer.Option(help="Ours also without one of its parts each.")] = False,
    calibration: Annotated[str, typer.Option(help="Engine times: a file or a name.")] = "h100-llama-3.1-8b",
    results: Annotated[
        Path | None, typer.Option(help="A folder of results: what is there is not played again.")
    ] = None,
    processes: Annotated[int | None, typer.Option(help="At most so many; default: the cores.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the comparison to this .svg file.")] = None,
    output: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Compare autoscalers in simulated time: violations of the objectives, replica-hours, hits."""
    rules = ScalingRules(1, max_replicas, ttft_objective_s=ttft_objective_s, itl_objective_s=tpot_objective_ms / 1000)
    study = ScalingStudy(load_calibration(calibration), rules, Growth(initial=2, start_s=start_s))
    drawn = range(first_seed, first_seed + seeds)
    if trace is None:
        traffics = {each: [Traffic(each, each, seed, duration, peak) for seed in drawn] for each in shape or SHAPES}
    else:
        traffics = _of_trace(trace, shape or [""], drawn, requests, rate_scale, skip)
    choices = _choices(scaler or SCALERS, max_replicas, with_variants=variants)
    count = processes or len(os.sched_getaffinity(0))
    with show_progress(err) as on_progress, Workers(count) as workers, tempfile.TemporaryDirectory() as scratch:
        player = Player(study, workers, Results(results or Path(scratch)), on_progress)
        played = list(player.play(traffics, choices))
    wide(out).print(_table(played))
    if output is not None:
        write_json(output, {"rules": asdict(rules), "start_s": start_s, "played": [_content(each) for each in played]})
    if plot is not None:
        write_scatter(plot, [_dot(each) for each in played])


def _of_trace(
    trace: Path, shapes: Sequence[str], seeds: Sequence[int], requests: int, rate_scale: float, skip: int
) -> dict[str, list[Traffic]]:
    """Return a trace's traffic by what is shown of it; without a shape nothing of it is drawn."""
    found: dict[str, list[Traffic]] = {}
    for shape in shapes:
        label = f"{trace.stem}, {shape}" if shape else trace.stem
        found[label] = [
            Traffic(label, shape, seed, 0.0, 0.0, trace, requests, rate_scale, skip)
            for seed in (seeds if shape else seeds[:1])
        ]
    return found


def _choices(scalers: Sequence[str], max_replicas: int, *, with_variants: bool) -> list[ScalerChoice]:
    """Return all settings of the scalers that are named without one, and those that are named."""
    known = (*(VARIANTS if with_variants else VARIANTS[:1]), *RIVALS, ScalerChoice(ALL, float(max_replicas)))
    choices: list[ScalerChoice] = []
    for text in scalers:
        of_name = [choice for choice in known if choice.name == text]
        choices += of_name or [parse_scaler(text, max_replicas)]
    return choices


def _table(played: Sequence[Played]) -> Table:
    table = make_table(
        "Autoscalers in simulated time",
        (
            "traffic",
            "scaler",
            "setting",
            "violations",
            "late",
            "slow",
            "replica-hours",
            "hits",
            "TTFT p50",
            "p99",
            "left",
            "missed",
        ),
        left=("traffic", "scaler", "setting"),
    )
    for label in dict.fromkeys(each.traffic for each in played):
        for each in best([every for every in played if every.traffic == label]):
            table.add_row(*_row(each))
    return table


def _row(played: Played) -> list[str]:
    mean = played.mean
    return [
        played.traffic,
        played.choice.name,
        str(played.choice),
        *(f"{mean(share):.2%}" for share in ("violations", "late", "slow")),
        f"{mean('replica_hours'):.2f}",
        f"{mean('hit_rate'):.3f}",
        *(f"{mean(time):.2f} s" for time in ("ttft_p50_s", "ttft_p99_s")),
        f"{mean('departures'):.0f}",
        f"{mean('missed_tokens') / 1000:,.0f}k",
    ]


def _content(played: Played) -> dict[str, Any]:
    return {
        "traffic": played.traffic,
        "scaler": asdict(played.choice),
        "setting": str(played.choice),
        "runs": played.runs,
    }


def _dot(played: Played) -> Dot:
    return Dot(
        played.traffic, played.choice.name, str(played.choice), played.mean("replica_hours"), played.mean("violations")
    )


if __name__ == "__main__":
    run_command(bench_scaling)
