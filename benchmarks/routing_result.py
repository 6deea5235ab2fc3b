"""Result of one run of the live comparison of routers: one policy at one rate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console

from aloraserve.wire.answer_stream import StreamedAnswer
from benchmarks.conversations import Kind
from benchmarks.harness.report import make_table
from benchmarks.harness.stats import percentile


@dataclass(slots=True)
class RoutingBenchResult:
    """One policy at one rate.

    Args:
        policy: of the platform.
        rate_per_s: new conversations per second.
        calls: answered.
        failed: not answered, or not to the end.
        hit_share: cached tokens of all prompt tokens.
        hit_bound: what one endless cache for the whole fleet would reach on the same calls, made one after the other.
        hit_share_by_kind: of the base model's calls, and of the aLoRAs' and the LoRA's.
        ttft_p50_s: as the client sees it, like the other TTFT in the model's seconds.
        ttft_p90_s: likewise.
        engine_ttft_p50_s: less each call's own gateway latency.
        engine_ttft_p90_s: likewise.
        base_ttft_p90_s: the same of the base model's calls alone.
        gateway_p50_s: the gateway's own latency during the run.
        gateway_p90_s: likewise.
        gateway_idle_p50_s: the same on an idle fleet.
        slowdown: how many real seconds one of the model's took.
        seconds: real ones that the run took.
        calls_per_replica: how many each replica answered.
        decided_by: how many calls each policy decided; "fallback" ones went without the directory.
        cpu_s: CPU time that each part of the platform used, and the client.
        errors: the first of what failed.
    """

    policy: str
    rate_per_s: float
    calls: int = 0
    failed: int = 0
    hit_share: float = 0.0
    hit_bound: float = 0.0
    hit_share_by_kind: dict[str, float] = field(default_factory=dict)
    ttft_p50_s: float = 0.0
    ttft_p90_s: float = 0.0
    engine_ttft_p50_s: float = 0.0
    engine_ttft_p90_s: float = 0.0
    base_ttft_p90_s: float = 0.0
    gateway_p50_s: float = 0.0
    gateway_p90_s: float = 0.0
    gateway_idle_p50_s: float = 0.0
    slowdown: float = 1.0
    seconds: float = 0.0
    calls_per_replica: dict[str, int] = field(default_factory=dict)
    decided_by: dict[str, int] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def sum_up(
        self, answers: Mapping[str, StreamedAnswer], kinds: Mapping[str, Kind], served: Mapping[str, float]
    ) -> None:
        """Fill in what came of a run's calls; the slowdown is known.

        Args:
            answers: at least one, by the id of its call.
            kinds: of each call, likewise.
            served: each call's TTFT in its engine, in real seconds, likewise.
        """
        ttft_s = [answer.ttft_s / self.slowdown for answer in answers.values()]
        engine_s = {call: served[call] / self.slowdown for call in answers}
        gateway_s = [answer.ttft_s - served[call] for call, answer in answers.items()]
        self.calls = len(answers)
        self.hit_share = _hit_share(list(answers.values()))
        self.hit_share_by_kind = {
            kind: _hit_share([answer for call, answer in answers.items() if kinds[call] == kind])
            for kind in sorted(set(kinds.values()))
        }
        self.ttft_p50_s, self.ttft_p90_s = _p50_p90(ttft_s)
        self.engine_ttft_p50_s, self.engine_ttft_p90_s = _p50_p90(list(engine_s.values()))
        self.base_ttft_p90_s = percentile([ttft for call, ttft in engine_s.items() if kinds[call] == "base"], 0.9)
        self.gateway_p50_s, self.gateway_p90_s = _p50_p90(gateway_s)
        self.calls_per_replica = dict(sorted(Counter(answer.replica for answer in answers.values()).items()))
        self.decided_by = dict(Counter(answer.policy for answer in answers.values()))


def _p50_p90(values: Sequence[float]) -> tuple[float, float]:
    return percentile(values, 0.5), percentile(values, 0.9)


def _hit_share(answers: Sequence[StreamedAnswer]) -> float:
    return sum(answer.cached_tokens for answer in answers) / sum(answer.prompt_tokens for answer in answers)


def show_results(console: Console, results: Sequence[RoutingBenchResult]) -> None:
    """Print one line per policy and rate."""
    times = ("TTFT\np50", "TTFT\np90", "engine\np50", "engine\np90", "gw\np50", "gw\np90", "gw\nidle")
    heads = ("policy", "rate", "hits", "bound", *times, "failed")
    table = make_table("live routing, times in ms", heads, left=("policy",), box=None, padding=(0, 1, 0, 0))
    for result in results:
        values = (
            result.ttft_p50_s,
            result.ttft_p90_s,
            result.engine_ttft_p50_s,
            result.engine_ttft_p90_s,
            result.gateway_p50_s,
            result.gateway_p90_s,
            result.gateway_idle_p50_s,
        )
        shares = (f"{result.hit_share:.3f}", f"{result.hit_bound:.3f}")
        shown = [f"{1000 * value:,.0f}" for value in values]
        table.add_row(result.policy, f"{result.rate_per_s:g}/s", *shares, *shown, str(result.failed))
    console.print(table)
    console.print("gw: the gateway's own latency, the client's TTFT less the engine's", style="dim")
