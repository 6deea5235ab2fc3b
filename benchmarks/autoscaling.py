"""``make bench-autoscaling``: a live fleet on several Ray nodes from one replica to many and back, under load.

Engines are simulated, or vLLM with ``--engine vllm``; gateways, Redis, Serve, its controller and the autoscaler are the
real ones. Fails where a call failed or a stream was cut, and says how much of what might have been reused was.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from aloraserve.engine_model.calibration import load as load_calibration
from aloraserve_services.cli.console import clearly, out
from aloraserve_services.cli.options import JsonFile
from aloraserve_services.cli.own_platform import free_port
from benchmarks.harness.command import run_command
from benchmarks.harness.ray_cluster import engine_replicas, served_on_nodes
from benchmarks.harness.redis_server import bench_server
from benchmarks.harness.report import Figure, figures_json, show_figures, write_json
from benchmarks.scaling_load import ScalingLoad, Shape, Stage, Turn, reused

BASE = "SmolLM2-135M-Instruct"
SLOW_PREFILL_S = 1 / 700
SETTLE_S = 30.0
LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Sample:
    """The fleet at a moment: replicas by Serve's states."""

    at_s: float
    running: int
    others: int


@clearly
def bench_autoscaling(
    engine: Annotated[str, typer.Option(help="simulated or vllm.")] = "simulated",
    replicas: Annotated[int, typer.Option(min=2, max=16, help="At most.")] = 4,
    nodes: Annotated[int, typer.Option(min=1, max=16, help="Raylets beside the head.")] = 2,
    calm_s: Annotated[float, typer.Option(min=5, max=3600, help="Seconds of little load, before.")] = 60.0,
    busy_s: Annotated[float, typer.Option(min=10, max=3600, help="Seconds of much load.")] = 120.0,
    conversations: Annotated[int, typer.Option(min=2, max=256, help="At a time, under much load.")] = 10,
    cooldown_s: Annotated[float, typer.Option(min=0, max=3600, help="scale_down_cooldown_s.")] = 15.0,
    objective_s: Annotated[float, typer.Option(min=0.01, max=600, help="ttft_objective_s.")] = 1.0,
    after_s: Annotated[float, typer.Option(min=5, max=3600, help="Seconds of little load, after.")] = 180.0,
    settle_s: Annotated[float, typer.Option(min=1, help="After a change, until reuse is counted.")] = SETTLE_S,
    json: JsonFile = None,
) -> None:
    """Measure a fleet that grows under load and shrinks after it: failures, cut streams, reuse."""
    with tempfile.TemporaryDirectory(prefix="aloraserve-bench-") as folder, bench_server() as redis_url:
        arguments = _arguments(Path(folder), redis_url, engine, replicas, cooldown_s, objective_s)
        load = ScalingLoad(f"http://127.0.0.1:{arguments['port']}", BASE, Shape())
        stages = [Stage(calm_s, 1), Stage(busy_s, conversations), Stage(after_s, 1)]
        with served_on_nodes(arguments, nodes, cpus=replicas):
            samples = asyncio.run(_played(load, stages))
            decisions = httpx.get(f"{load.url}/v1/scaling", timeout=30, trust_env=False).json()
    figures = _figures(load, samples, stages, settle_s)
    show_figures(out, f"1 to {replicas} replicas and back, {engine} engines on {nodes} nodes", figures)
    for failure in load.failures[:10]:
        out.print(failure, markup=False)
    if json is not None:
        result = {"figures": figures_json(figures), "samples": [asdict(sample) for sample in samples]}
        answered = Counter(turn.replica for turn in load.turns)
        write_json(json, result | {"answered": answered, "failures": load.failures, "scaling": decisions})
    if any(figure.is_met is False for figure in figures):
        raise typer.Exit(1)


def _arguments(
    folder: Path, redis_url: str, engine: str, replicas: int, cooldown_s: float, objective_s: float
) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "engine": engine,
        "port": free_port(),
        "host": "127.0.0.1",
        "redis_url": redis_url,
        "autoscaling": True,
        "max_replicas": replicas,
        "ttft_objective_s": objective_s,
        "scale_up_cooldown_s": 1.0,
        "scale_down_cooldown_s": cooldown_s,
        "warm_up_budget_s": 5.0,
        "max_model_len": 4096,
    }
    if engine == "simulated":
        calibration = folder / "slow.json"
        calibration.write_text(_slow())
        arguments["calibration"] = str(calibration)
    return arguments


def _slow() -> str:
    """Return a calibration of engines that few calls keep busy, so that the machine is not what is measured."""
    times = load_calibration("live-peers")
    prefill = times.prefill.model_copy(update={"s_per_token": SLOW_PREFILL_S})
    return times.model_copy(update={"name": "slow", "prefill": prefill}).model_dump_json()


async def _played(load: ScalingLoad, stages: Sequence[Stage]) -> list[Sample]:
    samples: list[Sample] = []

    async def watch() -> None:
        while True:
            states = await asyncio.to_thread(engine_replicas)
            running = states.count("RUNNING")
            samples.append(Sample(round(load.elapsed_s, 2), running, len(states) - running))
            await asyncio.sleep(LOOK_S)

    watching = asyncio.create_task(watch())
    try:
        await load.play(stages)
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
    return samples


def _figures(load: ScalingLoad, samples: Sequence[Sample], stages: Sequence[Stage], settle_s: float) -> list[Figure]:
    busy_from = stages[0].seconds
    calm_from = busy_from + stages[1].seconds
    pairs = list(pairwise(samples))
    ups = [sample.at_s for before, sample in pairs if sample.running > before.running]
    downs = [sample.at_s for before, sample in pairs if sample.running < before.running]
    most = max(sample.running for sample in samples)
    grown_s = min((sample.at_s for sample in samples if sample.running == most), default=0.0)
    steady = reused(_between(load.turns, settle_s / 2, busy_from))
    grown = reused(_between(load.turns, (ups[-1] if ups else busy_from) + settle_s, calm_from))
    shrunk = reused(_between(load.turns, (downs[-1] if downs else calm_from) + settle_s, calm_from + stages[2].seconds))
    return [
        Figure("calls answered", len(load.turns), "calls"),
        Figure("failed or cut", len(load.failures), "calls", 0),
        Figure("most replicas", most, "", float(most)),
        Figure("replicas at the end", samples[-1].running, "", 1),
        Figure("from load to most replicas", grown_s - busy_from, "s"),
        Figure("reused of what might be, one replica", 100 * steady, "%"),
        Figure("likewise, grown", 100 * grown, "%", 100 * steady - 5, at_least=True),
        Figure("likewise, shrunk again", 100 * shrunk, "%", 100 * steady - 5, at_least=True),
    ]


def _between(turns: Sequence[Turn], begin_s: float, end_s: float) -> list[Turn]:
    return [turn for turn in turns if begin_s <= turn.at_s < end_s]


if __name__ == "__main__":
    run_command(bench_autoscaling)
