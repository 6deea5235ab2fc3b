"""``make bench-grpc``: gRPC beside HTTP, on one platform of simulated engines that calls need not wait for.

Both edges take turns with the same prompts. TTFT is the client's: of whole answers to their last byte, of streams to
the first token. CPU time is the gateways'; that of a chunk is the difference between long and short streams.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from aloraserve.engine_model.calibration import load
from aloraserve_services.cli.console import Steps, out
from aloraserve_services.cli.options import ChosenSettings, JsonFile, check_result_file, takes_settings
from aloraserve_services.cli.own_platform import free_port
from aloraserve_services.engine.simulated.answer_words import AnswerWords
from aloraserve_services.models.hardware import describe_machine
from aloraserve_services.models.model_files import resolve_model
from aloraserve_services.models.untrained import twin_adapters
from benchmarks.gateway_arms import TOKEN_S
from benchmarks.gateway_calls import (
    CACHED_PROMPTS,
    CACHED_SEED,
    CACHED_TOKENS,
    CALL_TOKENS,
    LONG_ANSWER,
    SHORT_ANSWER,
    Arm,
    Bodies,
    Turn,
    repeated,
    turn,
)
from benchmarks.grpc_clients import GrpcArm
from benchmarks.harness.calibrations import calibration_file, instant
from benchmarks.harness.command import run_command
from benchmarks.harness.counting_client import CHATS
from benchmarks.harness.detached_platform import detached_platform
from benchmarks.harness.processes import GATEWAY, PlatformProcesses
from benchmarks.harness.report import Figure, figures_json, make_table, wide, write_json
from benchmarks.harness.stats import percentile

HTTP, GRPC = "HTTP", "gRPC"
CALLS, CALLS_AT_ONCE = 160, 8
STREAMS, STREAMS_AT_ONCE = 24, 4
STREAM_PROMPT_TOKENS = 100
Samples = dict[str, list[float]]


@takes_settings("model", "state_dir")
def bench_grpc(
    chosen: ChosenSettings,
    rounds: Annotated[int, typer.Option(min=1, max=50, help="Turns of each edge; medians count.")] = 5,
    calls: Annotated[int, typer.Option(min=10, help="Calls of each kind whose TTFT is measured, one at a time.")] = 300,
    json: JsonFile = None,
) -> None:
    """Measure gRPC beside HTTP: TTFT and the gateway's CPU time, with the same prompts on the same platform."""
    settings = chosen.load()
    check_result_file(json)
    steps = Steps()
    _, model = resolve_model(settings.model, settings.state_dir, "float32", progress=steps)
    adapters = twin_adapters(settings.state_dir, model)
    port = free_port()
    with (
        tempfile.TemporaryDirectory(prefix="alora-bench-") as folder,
        calibration_file(instant(load("live-peers"), token_s=TOKEN_S)) as times,
        detached_platform(
            *("--engine", "simulated", "--replicas", "2", "--grpc-port", str(port), "--model", str(model)),
            *("--adapters-dir", str(adapters), "--calibration", str(times)),
            state_dir=Path(folder),
        ) as running,
    ):
        steps(f"the platform is ready at {running.url} and 127.0.0.1:{port}")
        processes = PlatformProcesses(running.pid)
        arms = [Arm(HTTP, (running.url,), processes), GrpcArm(GRPC, (f"127.0.0.1:{port}",), processes)]
        bench = EdgeBench(arms, Bodies(model.name, AnswerWords.read(model)))
        asyncio.run(bench.run(rounds, calls))
    figures = bench.figures()
    _show(bench.samples, figures)
    write_json(json, {"machine": describe_machine(), "figures": figures_json(figures)})


class EdgeBench:
    """Plays the same calls over each edge in turns.

    Args:
        arms: the edges.
        bodies: to send.

    Attributes:
        samples: of each figure, by edge.
    """

    def __init__(self, arms: Sequence[Arm], bodies: Bodies) -> None:
        self._arms = list(arms)
        self._bodies = bodies
        self.samples: dict[str, Samples] = {}

    async def run(self, rounds: int, calls: int) -> None:
        """Play everything."""
        for _ in range(rounds):
            for arm in self._arms:
                await self._call_cpu(arm)
                await self._chunk_cpu(arm)
            self._arms.reverse()
        await self._ttft("unary TTFT", calls, is_streamed=False)
        await self._ttft("streamed TTFT", calls, is_streamed=True)

    def figures(self) -> list[Figure]:
        """Return what gRPC takes of what HTTP takes."""
        return [
            Figure(f"{name}, gRPC of HTTP", _median(samples[GRPC]) / _median(samples[HTTP]), "x", 1.0)
            for name, samples in self.samples.items()
        ]

    async def _call_cpu(self, arm: Arm) -> None:
        made = repeated(lambda: self._bodies.fresh(CALL_TOKENS, 1), CALLS)
        played = await turn(arm, made, at_once=CALLS_AT_ONCE)
        self._note("CPU per call", arm, _cpu_ms(played) / CALLS)

    async def _chunk_cpu(self, arm: Arm) -> None:
        used_ms = []
        for tokens in (SHORT_ANSWER, LONG_ANSWER):
            made = repeated(lambda tokens=tokens: self._streamed(tokens), STREAMS)  # type: ignore[misc]
            used_ms.append(_cpu_ms(await turn(arm, made, at_once=STREAMS_AT_ONCE)))
        self._note("CPU per chunk", arm, (used_ms[1] - used_ms[0]) / (STREAMS * (LONG_ANSWER - SHORT_ANSWER)))

    async def _ttft(self, name: str, calls: int, *, is_streamed: bool) -> None:
        """Call the edges in turn with prompts that are cached, one call at a time, each on a kept connection."""
        texts = [self._bodies.text(CACHED_SEED + number, CACHED_TOKENS) for number in range(CACHED_PROMPTS)]
        clients = {arm.name: arm.clients(1)[0] for arm in self._arms}
        order = list(clients)
        for number in range(-2 * CACHED_PROMPTS, calls):
            body = self._bodies.chat(texts[number % CACHED_PROMPTS], 2 if is_streamed else 1, stream=is_streamed)
            order.reverse()
            for edge in order:
                answer = await clients[edge].call(CHATS, body)
                if number >= 0:
                    self.samples.setdefault(name, {}).setdefault(edge, []).append(answer.ttft_s * 1000)

    def _note(self, name: str, arm: Arm, value: float) -> None:
        self.samples.setdefault(name, {}).setdefault(arm.name, []).append(value)

    def _streamed(self, answer_tokens: int) -> dict[str, object]:
        return self._bodies.fresh(STREAM_PROMPT_TOKENS, answer_tokens, stream=True)


def _cpu_ms(played: Turn) -> float:
    return played.cpu_s.get(GATEWAY, 0.0) * 1000


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


def _show(samples: dict[str, Samples], figures: Sequence[Figure]) -> None:
    table = make_table(
        "gRPC beside HTTP, ms", ("what", HTTP, GRPC, "gRPC of HTTP", "p99 HTTP", "p99 gRPC"), left=("what",)
    )
    for (name, by_edge), figure in zip(samples.items(), figures, strict=True):
        middle = [f"{_median(by_edge[edge]):.3f}" for edge in (HTTP, GRPC)]
        tails = [f"{percentile(by_edge[edge], 0.99):.3f}" for edge in (HTTP, GRPC)]
        table.add_row(name, *middle, f"{figure.value:.2f}x", *(tails if "TTFT" in name else ("", "")))
    wide(out).print(table)


if __name__ == "__main__":
    run_command(bench_grpc)
