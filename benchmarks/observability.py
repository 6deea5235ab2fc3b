"""``make bench-observability``: what metrics and traces cost the gateway's throughput.

Two platforms of simulated engines run beside each other, one that observes and one that does not, and take turns: a
pair is a turn of each, in alternating order, so that what else the machine does meets both. Two starts of one platform
differ by some percent for as long as they run, which no number of pairs averages out: so both are started several
times, and the interval is that of the starts' means. The engines are so fast that the gateway
and the client, is what calls wait for. The platform that observes is scraped as often as Prometheus would, counted in
its own turns' time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from aloraserve.settings import default_state_dir
from aloraserve_services.cli.console import clearly, out
from aloraserve_services.cli.options import JsonFile, check_result_file
from aloraserve_services.local.run_file import Running
from aloraserve_services.models.model_files import ensure_smollm2
from benchmarks.harness.calibrations import slowed_file
from benchmarks.harness.command import run_command
from benchmarks.harness.detached_platform import detached_platform
from benchmarks.harness.report import write_json
from benchmarks.harness.stats import mean_ratio
from benchmarks.platform_turns import PlatformTurns

SPEED = 50.0
"""How many times faster the engines are than those of the calibration."""
PLAIN = {"ALORASERVE_METRICS": "false"}
LOOKUP_BUDGET = {"ALORASERVE_LOOKUP_BUDGET_MS": "100"}
CALIBRATION = "live-peers"
REPLICAS = 2
PROMPT_TOKENS, VOCABULARY = 512, 30_000
PROMPTS = 64
WARM_UP_TURNS = 2


@clearly
def bench_observability(
    starts: Annotated[int, typer.Option(min=2, help="Starts of both platforms.")] = 10,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of turns with each start.")] = 40,
    turn_s: Annotated[float, typer.Option(min=0.1, help="Seconds of each turn.")] = 0.7,
    otlp_endpoint: Annotated[str | None, typer.Option(help="Also trace, to this collector.")] = None,
    nothing: Annotated[bool, typer.Option("--nothing", help="Compare a platform with itself.")] = False,
    json: JsonFile = None,
) -> None:
    """Measure what metrics and traces cost the gateway, in interleaved pairs."""
    check_result_file(json)
    traces = {"ALORASERVE_OTLP_ENDPOINT": otlp_endpoint} if otlp_endpoint else {}
    name = "nothing" if nothing else "metrics and traces" if traces else "metrics"
    state_dir, observing = default_state_dir(), PLAIN if nothing else traces
    found = measure(name, observing, starts=starts, pairs=pairs, turn_s=turn_s, state_dir=state_dir)
    out.print(f"{name}, {found.pairs} pairs over {starts} starts")
    ratios = {"calls per second": found.ratios, "calls per second of CPU time": found.cpu_ratios}
    for what, found_ratios in ratios.items():
        change = mean_ratio(found_ratios)
        out.print(
            f"{what}: {change.middle - 1:+.2%}, 95 % interval {change.low - 1:+.2%} to {change.high - 1:+.2%}",
            soft_wrap=True,
        )
    per_s, cpu_ms = found.plain_calls / found.plain_s, found.plain_cpu_s / found.plain_calls * 1000
    out.print(f"without: {per_s:.0f} calls/s, {cpu_ms:.1f} ms of CPU time per call")
    write_json(json, asdict(found))


@dataclass(slots=True)
class Overhead:
    """Outcome of the pairs.

    Args:
        name: what was compared with nothing.
        ratios: of each start, the geometric mean over its pairs: calls per second with it by those without.
        cpu_ratios: likewise, calls per second of the platform's CPU time: what else the machine does is not in it.
        pairs: of all starts.
        plain_calls: made without, in all turns.
        plain_s: that they took.
        plain_cpu_s: the platform's CPU time that they took.
    """

    name: str
    ratios: list[float] = field(default_factory=list)
    cpu_ratios: list[float] = field(default_factory=list)
    pairs: int = 0
    plain_calls: int = 0
    plain_s: float = 0.0
    plain_cpu_s: float = 0.0


def measure(
    name: str, observing: dict[str, str], *, starts: int, pairs: int, turn_s: float, state_dir: Path
) -> Overhead:
    """Return what observing costs.

    Args:
        name: of what is measured.
        observing: settings of the platform that observes, as variables.
        starts: how often both platforms are started.
        pairs: how many are played with each start.
        turn_s: seconds of each turn.
        state_dir: where the converted model is, or is to be.

    Raises:
        StartError: a platform does not start.
        CallFailedError: a call failed.
    """
    model = ensure_smollm2(state_dir, dtype="float32")
    found = Overhead(name)
    for number in range(starts):
        # Which of them starts on the emptier machine changes too.
        first, second = (PLAIN, observing) if number % 2 else (observing, PLAIN)
        with _platform(model, first) as earlier, _platform(model, second) as later:
            plain, observed = (earlier, later) if number % 2 else (later, earlier)
            players = (
                PlatformTurns(plain, replicas=REPLICAS, is_scraped=False),
                PlatformTurns(observed, replicas=REPLICAS, is_scraped=True),
            )
            asyncio.run(_play(found, players, pairs, turn_s))
        out.print(
            f"start {number + 1} of {starts}: {found.ratios[-1] - 1:+.2%} calls per second, "
            f"{found.cpu_ratios[-1] - 1:+.2%} of CPU time",
            soft_wrap=True,
        )
    return found


async def _play(found: Overhead, players: tuple[PlatformTurns, PlatformTurns], pairs: int, turn_s: float) -> None:
    """Add the pairs of one start."""
    draw = random.Random(0)  # noqa: S311
    prompts = [[draw.randrange(VOCABULARY) for _ in range(PROMPT_TOKENS)] for _ in range(PROMPTS)]
    ratios, cpu_ratios = [], []
    for pair in range(-WARM_UP_TURNS, pairs):
        order = (0, 1) if pair % 2 else (1, 0)
        turns = {player: await players[player].turn(prompts, turn_s) for player in order}
        if pair >= 0:
            without, observed = turns[0], turns[1]
            ratios.append((observed.calls / observed.seconds) / (without.calls / without.seconds))
            cpu_ratios.append((observed.calls / observed.cpu_s) / (without.calls / without.cpu_s))
            found.plain_calls += without.calls
            found.plain_s += without.seconds
            found.plain_cpu_s += without.cpu_s
    found.pairs += pairs
    found.ratios.append(statistics.geometric_mean(ratios))
    found.cpu_ratios.append(statistics.geometric_mean(cpu_ratios))


@contextlib.contextmanager
def _platform(model: Path, variables: Mapping[str, str]) -> Iterator[Running]:
    """Run a platform of simulated engines with a state folder of its own."""
    with tempfile.TemporaryDirectory(prefix="alora-bench-") as folder, slowed_file(CALIBRATION, 1 / SPEED) as times:
        flags = ["--engine", "simulated", "--calibration", str(times), "--replicas", str(REPLICAS)]
        own = ["--model", str(model)]
        given = {**LOOKUP_BUDGET, **variables}
        with detached_platform(*flags, *own, state_dir=Path(folder), variables=given) as running:
            yield running


if __name__ == "__main__":
    run_command(bench_observability)
