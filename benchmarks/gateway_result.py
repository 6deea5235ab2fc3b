"""Figures of the gateway benchmark: one arm's, its targets, and the tables that show them."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from benchmarks.harness.processes import ENGINES, without_engines
from benchmarks.harness.report import Figure, make_table, wide
from benchmarks.harness.stats import percentile

CALL_CPU, CHUNK_CPU = "CPU per call, 500-token prompt, one token", "CPU per streamed chunk"
CALL_CPU_ALL, CHUNK_CPU_ALL = "CPU per call, engines included", "CPU per streamed chunk, engines included"
TTFT_P50, TTFT_P99 = "TTFT, 1,000 cached tokens, one at a time, p50", "the same, p99"
ADDED_P50, ADDED_P99 = "TTFT added to the engine's own, p50", "TTFT added to the engine's own, p99"
CALLS_PER_S, CHUNKS_PER_S = "calls per second, 16 at a time", "streamed chunks per second, 16 streams"
STREAM_TOKENS_PER_S, OF_BARE = "tokens per second, 16 streams", "the same, of the bare servers'"
MEMORY, OTHERS_TTFT = "memory that 64 clients add that never read", "TTFT p90 of others beside them"
HEALTH_BIG_BODY = "/healthz beside the largest refused bodies, worst"
HEALTH_IDLE, CALL_IDLE = "/healthz beside 100 idle connections, worst", "TTFT p90 beside 100 idle connections"

UNITS = {
    CALL_CPU: "ms", CHUNK_CPU: "ms", CALL_CPU_ALL: "ms", CHUNK_CPU_ALL: "ms",
    TTFT_P50: "ms", TTFT_P99: "ms", ADDED_P50: "ms", ADDED_P99: "ms",
    CALLS_PER_S: "/s", CHUNKS_PER_S: "/s", STREAM_TOKENS_PER_S: "/s", OF_BARE: "x",
    MEMORY: "MB", OTHERS_TTFT: "x", HEALTH_BIG_BODY: "ms",
    HEALTH_IDLE: "ms", CALL_IDLE: "x",
}  # fmt: skip
TARGETS = {
    CALL_CPU: 4.0, CHUNK_CPU: 0.10, ADDED_P50: 5.0, ADDED_P99: 15.0, MEMORY: 20.0, OTHERS_TTFT: 1.2,
    HEALTH_BIG_BODY: 25.0, HEALTH_IDLE: 25.0, CALL_IDLE: 1.2, OF_BARE: 0.95,
}  # fmt: skip
AT_LEAST = {OF_BARE}
"""The other targets are bounds from above."""


@dataclass(slots=True)
class ArmResult:
    """What was measured of one arm.

    Args:
        name: of the arm.
        samples: of each figure; the median counts.
        call_cpu_ms: of each part, per call, one entry for each turn.
        chunk_cpu_ms: of each part, per streamed chunk, likewise.
        idle_cpu_ms: of each part, per idle second.
    """

    name: str
    samples: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    call_cpu_ms: list[dict[str, float]] = field(default_factory=list)
    chunk_cpu_ms: list[dict[str, float]] = field(default_factory=list)
    idle_cpu_ms: dict[str, float] = field(default_factory=dict)

    def figures(self) -> dict[str, float]:
        """Return the median of each figure that was measured."""
        found = {name: statistics.median(values) for name, values in self.samples.items() if values}
        looked = ((CALL_CPU, CALL_CPU_ALL, self.call_cpu_ms), (CHUNK_CPU, CHUNK_CPU_ALL, self.chunk_cpu_ms))
        for name, whole, parts in looked:
            if parts:
                found[whole] = statistics.median(sum(turn.values()) for turn in parts)
                if any(part != ENGINES for part in parts[0]):
                    found[name] = statistics.median(without_engines(turn) for turn in parts)
        return {name: found[name] for name in UNITS if name in found}

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "figures": self.figures(),
            "samples": dict(self.samples),
            "call_cpu_ms": middle(self.call_cpu_ms),
            "chunk_cpu_ms": middle(self.chunk_cpu_ms),
            "idle_cpu_ms_per_s": self.idle_cpu_ms,
        }


def add_ttft(results: Sequence[ArmResult], found: Mapping[str, Sequence[float]]) -> None:
    """Add what each arm's TTFT was, raw and less the median of the last arm's, the engine's own.

    Args:
        results: the bare engines last.
        found: TTFT of each arm's calls in seconds, by its name.
    """
    own_s = percentile(found[results[-1].name], 0.5)
    for result in results:
        for share, raw, added in ((0.5, TTFT_P50, ADDED_P50), (0.99, TTFT_P99, ADDED_P99)):
            ttft_s = percentile(found[result.name], share)
            result.samples[raw].append(ttft_s * 1000)
            result.samples[added].append((ttft_s - own_s) * 1000)


def middle(turns: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return each part's median over the turns."""
    parts = dict.fromkeys(part for turn in turns for part in turn)
    return {part: statistics.median(turn.get(part, 0.0) for turn in turns) for part in parts}


def show_results(console: Console, results: Sequence[ArmResult]) -> None:
    """Print the figures of all arms beside the targets, and where the CPU time of the platforms went."""
    heads = ("what", "target", *(result.name for result in results))
    table = make_table("gateway", heads, left=("what",), box=None, padding=(0, 2, 0, 0))
    figures = [result.figures() for result in results]
    for name, unit in UNITS.items():
        if any(name in found for found in figures):
            sign = ">=" if name in AT_LEAST else "<="
            bound = f"{sign} {TARGETS[name]:g} {unit}" if name in TARGETS else "-"
            table.add_row(name, bound, *(_shown(found.get(name), unit) for found in figures))
    wide(console).print(table)
    for result in results:
        if CALL_CPU in result.figures():
            _show_parts(console, result)


def judged(result: ArmResult) -> list[Figure]:
    """Return an arm's figures beside their targets."""
    return [
        Figure(name, value, UNITS[name], TARGETS.get(name), at_least=name in AT_LEAST)
        for name, value in result.figures().items()
    ]


def _shown(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return f"{value:,.3f} {unit}" if abs(value) < 1 else f"{value:,.1f} {unit}"


def _show_parts(console: Console, result: ArmResult) -> None:
    call, chunk, idle = middle(result.call_cpu_ms), middle(result.chunk_cpu_ms), result.idle_cpu_ms
    heads = ("process", "ms per call", "ms per chunk", "ms per idle second")
    table = make_table(f"CPU time of {result.name}", heads, left=("process",))
    for part in sorted({*call, *chunk, *idle} - {ENGINES}, key=lambda part: -call.get(part, 0.0)):
        table.add_row(part, f"{call.get(part, 0):.2f}", f"{chunk.get(part, 0):.3f}", f"{idle.get(part, 0):.1f}")
    table.add_row("all but the engines", *(f"{without_engines(parts):.2f}" for parts in (call, chunk, idle)))
    table.add_row(ENGINES, *(f"{parts.get(ENGINES, 0):.2f}" for parts in (call, chunk, idle)), style="dim")
    console.print(table)
