"""Results of the live comparison of routers: one arm at one rate each, and what they come to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console

from aloraserve.wire.answer_stream import StreamedAnswer
from benchmarks.conversations import Kind
from benchmarks.harness.report import Figure, make_table, wide
from benchmarks.harness.stats import median_of, percentile

HITS_OF_BOUND = 0.98
"""Share of the cached tokens of one endless cache that a run is to reach."""


@dataclass(slots=True)
class RoutingBenchResult:
    """One arm at one rate.

    Args:
        arm: this platform's policy, or another router's name.
        rate_per_s: new conversations per second.
        seed: of the conversations.
        is_own: whether it is this platform.
        calls: answered.
        failed: not answered, or not to the end.
        hit_share: cached tokens of all prompt tokens.
        hit_bound: what one endless cache for the whole fleet would reach on the same calls, made one after the other.
        hit_share_by_kind: of the base model's calls, and of the aLoRAs' and the LoRA's.
        ttft_p50_s: as the client sees it, like the other TTFT in the model's seconds.
        ttft_p90_s: likewise.
        engine_ttft_p50_s: less each call's own gateway latency; 0 where engines do not say, like what follows from it.
        engine_ttft_p90_s: likewise.
        base_ttft_p90_s: the same of the base model's calls alone.
        gateway_p50_s: the gateway's own latency during the run.
        gateway_p90_s: likewise.
        gateway_idle_p50_s: the same on an idle fleet.
        slowdown: how many real seconds one of the model's took.
        seconds: real ones that the run took.
        calls_per_replica: how many each replica answered, if the answers say that.
        decided_by: how many calls each policy decided, likewise; "fallback" ones went without the directory.
        cpu_s: CPU time that each part of the platform used, the client as its "command"; another router's alone.
        errors: the first of what failed.
    """

    arm: str
    rate_per_s: float
    seed: int = 0
    is_own: bool = True
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
            served: each call's TTFT in its engine, in real seconds, likewise; empty if that is not known.
        """
        ttft_s = [answer.ttft_s / self.slowdown for answer in answers.values()]
        self.calls = len(answers)
        self.hit_share = _hit_share(list(answers.values()))
        self.hit_share_by_kind = {
            kind: _hit_share([answer for call, answer in answers.items() if kinds[call] == kind])
            for kind in sorted(set(kinds.values()))
        }
        self.ttft_p50_s, self.ttft_p90_s = _p50_p90(ttft_s)
        self.calls_per_replica = dict(sorted(Counter(answer.replica for answer in answers.values()).items()))
        self.decided_by = dict(Counter(answer.policy for answer in answers.values()))
        if served:
            self._split(answers, kinds, served)

    def _split(
        self, answers: Mapping[str, StreamedAnswer], kinds: Mapping[str, Kind], served: Mapping[str, float]
    ) -> None:
        engine_s = {call: served[call] / self.slowdown for call in answers}
        gateway_s = [answer.ttft_s - served[call] for call, answer in answers.items()]
        self.engine_ttft_p50_s, self.engine_ttft_p90_s = _p50_p90(list(engine_s.values()))
        self.base_ttft_p90_s = percentile([ttft for call, ttft in engine_s.items() if kinds[call] == "base"], 0.9)
        self.gateway_p50_s, self.gateway_p90_s = _p50_p90(gateway_s)


def _p50_p90(values: Sequence[float]) -> tuple[float, float]:
    return percentile(values, 0.5), percentile(values, 0.9)


def _hit_share(answers: Sequence[StreamedAnswer]) -> float:
    return sum(answer.cached_tokens for answer in answers) / sum(answer.prompt_tokens for answer in answers)


def show_results(console: Console, results: Sequence[RoutingBenchResult]) -> None:
    """Print one line per run."""
    times = ("TTFT\np50", "TTFT\np90", "engine\np50", "engine\np90", "gw\np50", "gw\np90", "gw\nidle")
    heads = ("arm", "rate", "seed", "hits", "bound", *times, "failed")
    table = make_table("live routing, times in ms", heads, left=("arm",), box=None, padding=(0, 2, 0, 0))
    for result in results:
        split = (
            result.engine_ttft_p50_s,
            result.engine_ttft_p90_s,
            result.gateway_p50_s,
            result.gateway_p90_s,
            result.gateway_idle_p50_s,
        )
        shares = (f"{result.hit_share:.3f}", f"{result.hit_bound:.3f}")
        raw = [f"{1000 * value:,.0f}" for value in (result.ttft_p50_s, result.ttft_p90_s)]
        shown = [f"{1000 * value:,.0f}" if result.is_own else "-" for value in split]
        numbers = (f"{result.rate_per_s:g}/s", str(result.seed))
        table.add_row(result.arm, *numbers, *shares, *raw, *shown, str(result.failed))
    wide(console).print(table)
    console.print("TTFT: the client's; gw: the gateway's own latency, that TTFT less the engine's", style="dim")


def verdicts(results: Sequence[RoutingBenchResult]) -> list[Figure]:
    """Return each own arm's TTFT p90 beside the best other router's, and its hits beside the bound, medians by rate."""
    found = []
    for rate_per_s in dict.fromkeys(result.rate_per_s for result in results):
        runs: dict[tuple[bool, str], list[RoutingBenchResult]] = {}
        for result in results:
            if result.rate_per_s == rate_per_s:
                runs.setdefault((result.is_own, result.arm), []).append(result)
        others = [_p90_ms(played) for (is_own, _), played in runs.items() if not is_own]
        for (is_own, arm), played in runs.items():
            if is_own:
                name = f"{arm}, {rate_per_s:g}/s"
                share = median_of(played, lambda result: result.hit_share / result.hit_bound)
                found.append(Figure(f"TTFT p90, {name}", _p90_ms(played), "ms", min(others, default=None)))
                found.append(Figure(f"hits of the bound, {name}", share, "", HITS_OF_BOUND, at_least=True))
    return found


def _p90_ms(runs: Sequence[RoutingBenchResult]) -> float:
    return median_of(runs, lambda result: result.ttft_p90_s * 1000)
