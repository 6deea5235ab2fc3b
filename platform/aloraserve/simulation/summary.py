"""From what became of each call to the figures that routers are compared by."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from aloraserve.simulation.bounds import Bound
from aloraserve.simulation.fleet import CallRecord, RunResult

_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t at 97.5 % for 1, 2, ... degrees of freedom."""


def student_t(freedom: int) -> float:
    """Return Student's t for a two-sided interval of 95 %; beyond 10 degrees of freedom an expansion in 1/freedom.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5; at most 0.0021 too small there.
    """
    if freedom <= len(_T_95):
        return _T_95[freedom - 1]
    normal = 1.959964
    return (
        normal
        + (normal**3 + normal) / (4 * freedom)
        + (5 * normal**5 + 16 * normal**3 + 3 * normal) / (96 * freedom**2)
    )


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of one workload.

    Args:
        oracle: one infinite cache.
        pooled: one cache of the fleet's size.
    """

    oracle: Bound
    pooled: Bound


def half_width(values: Sequence[float]) -> float:
    """Return half the width of the 95 % interval of the mean of at least two values (Student's t)."""
    return student_t(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that ``share`` of the values do not exceed (nearest rank); NaN of none."""
    if not ordered:
        return math.nan
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def summarize(result: RunResult, bounds: Bounds, rate_scale: float) -> dict[str, float]:
    """Return a run's figures by name.

    Times are of calls that were answered; ``failed`` counts the others. TPOT is the time between two tokens of an
    answer, on average over it, of answers of at least two tokens. A call is cold if less than half of its prompt was
    cached when it began. Figures of calls that there were none of are NaN. ``imbalance`` is the most prompt tokens that
    a replica computed, by their mean over the replicas.
    """
    records = result.records
    answered = [record for record in records if record.e2e_s < math.inf]
    figures: dict[str, float] = {}
    for name, times in (
        ("ttft", [record.ttft_s for record in answered]),
        ("e2e", [record.e2e_s for record in answered]),
        ("tpot", [record.tpot_s for record in answered if record.output_tokens > 1]),
    ):
        figures |= _distribution(name, times)
    for kind in ("base", "alora", "lora"):
        ordered = sorted(record.ttft_s for record in answered if record.kind == kind)
        if ordered:
            figures[f"{kind}_ttft_p90_s"] = percentile(ordered, 0.9)
            figures[f"{kind}_hit_rate"] = _hit_rate([record for record in answered if record.kind == kind])
    cold = sorted(record.ttft_s for record in answered if 2 * record.cached_tokens < record.prompt_tokens)
    for percent in (90, 99):
        figures[f"cold_ttft_p{percent}_s"] = percentile(cold, percent / 100)
    figures |= {
        "hit_rate": _hit_rate(answered),
        "oracle_hit_rate": bounds.oracle.hit_rate,
        "pooled_hit_rate": bounds.pooled.hit_rate,
        "imbalance": _imbalance(answered, len(result.requests)),
        "adapter_loads": result.adapter_loads,
        "calls": len(records),
        "failed": len(records) - len(answered),
        "resent": result.resent,
        "cut": result.cut,
        "fallbacks": result.fallbacks,
        "rate_scale": rate_scale,
        "duration_s": result.ended_s,
    }
    return figures


def _distribution(name: str, times: Sequence[float]) -> dict[str, float]:
    ordered = sorted(times)
    figures = {f"{name}_mean_s": statistics.fmean(ordered) if ordered else math.nan}
    return figures | {f"{name}_p{percent}_s": percentile(ordered, percent / 100) for percent in (50, 90, 99)}


def over_seeds(runs: Sequence[dict[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Return each figure's mean over runs with different seeds, and half the width of its 95 % interval (Student's t).

    With one run there are no intervals. A figure that is NaN in one run is NaN, with its interval.
    """
    names = [name for name in runs[0] if all(name in run for run in runs)]
    means = {name: statistics.fmean(run[name] for run in runs) for name in names}
    if len(runs) < 2:
        return means, {}
    return means, {
        # statistics.stdev raises AttributeError at a NaN.
        name: half_width([run[name] for run in runs]) if math.isfinite(mean) else math.nan
        for name, mean in means.items()
    }


def _hit_rate(records: Sequence[CallRecord]) -> float:
    prompts = sum(record.prompt_tokens for record in records)
    return sum(record.cached_tokens for record in records) / prompts if prompts else 0.0


def _imbalance(records: Sequence[CallRecord], replicas: int) -> float:
    computed = [0] * replicas
    for record in records:
        computed[record.replica] += record.prompt_tokens - record.cached_tokens
    total = sum(computed)
    return max(computed) * replicas / total if total else 1.0
