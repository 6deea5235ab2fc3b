"""From samples to figures: rows, ratios of equal conversations, savings, and what was to be reached."""

from __future__ import annotations

import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from loadtests.samples import Sample

RESAMPLES = 2000
Key = tuple[Any, ...]
TTFT_WANTED = {500: 8.0, 2000: 30.0, 7500: 100.0}
"""Least TTFT ratios of a LoRA's first call and the aLoRA's, ``base-adapter``, by length."""
E2E_WANTED = {7500: 13.0}
HITS_WANTED = 0.95
COMPARED = ("evaluation", "whole", "after-adapter")


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and its 95 % interval from resampling; both ends are the median for fewer than three values."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Return the spread of some values, None of none."""
        if not values:
            return None
        median = statistics.median(values)
        if len(values) < 3:
            return cls(median, median, median)
        chooser = random.Random(0)  # noqa: S311
        medians = sorted(statistics.median(chooser.choices(values, k=len(values))) for _ in range(RESAMPLES))
        return cls(median, medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES) - 1])

    def to_json(self) -> dict[str, float]:
        """Return it as the report has it."""
        return {"p50": round(self.median, 4), "low": round(self.low, 4), "high": round(self.high, 4)}


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the nearest-rank percentile, None of no values."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else None


def rows(samples: Iterable[Sample]) -> list[dict[str, Any]]:
    """Return one row for each phase, pipeline, arm, step, state, length and rate."""
    groups: dict[Key, list[Sample]] = defaultdict(list)
    for one in samples:
        groups[one.phase, one.pipeline, one.arm, one.step, one.state, one.length, one.rate_per_s].append(one)
    return [_row(key, group) for key, group in sorted(groups.items(), key=lambda pair: tuple(map(str, pair[0])))]


def _row(key: Key, group: list[Sample]) -> dict[str, Any]:
    phase, pipeline, arm, step, state, length, rate = key
    good = [one for one in group if not one.error]
    prompt = sum(one.prompt_tokens for one in good)
    ttft, e2e = [one.ttft_s for one in good if step != "whole"], [one.e2e_s for one in good]
    return {
        "phase": phase,
        "pipeline": pipeline,
        "arm": arm,
        "step": step,
        "state": state,
        "length": length,
        "rate_per_s": rate,
        "prompt_tokens": round(statistics.median([one.prompt_tokens for one in good])) if good else 0,
        "n": len(good),
        "failed": len(group) - len(good),
        "ttft_p50_s": _rounded(percentile(ttft, 0.5)),
        "ttft_p90_s": _rounded(percentile(ttft, 0.9)),
        "ttft_interval_s": _interval(ttft),
        "queue_p50_s": _rounded(percentile([one.queue_s for one in good if one.queue_s is not None], 0.5)),
        "prefill_p50_s": _rounded(percentile([one.prefill_s for one in good if one.prefill_s is not None], 0.5)),
        "decode_p50_s": _rounded(percentile([one.decode_s for one in good if step != "whole"], 0.5)),
        "itl_p50_s": _rounded(percentile([one.itl_s for one in good if one.itl_s is not None], 0.5)),
        "e2e_p50_s": _rounded(percentile(e2e, 0.5)),
        "e2e_interval_s": _interval(e2e),
        "cached_share": round(sum(one.cached_tokens for one in good) / prompt, 4) if prompt else None,
    }


def _interval(values: Sequence[float]) -> list[float] | None:
    spread = Spread.of(values)
    return [round(spread.low, 6), round(spread.high, 6)] if spread else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def ratios(samples: Iterable[Sample]) -> list[dict[str, Any]]:
    """Return LoRA : aLoRA of calls with equal content, by phase, pipeline, step, state and length."""
    groups: dict[Key, list[tuple[Sample, Sample]]] = defaultdict(list)
    for lora, alora in pairs(samples):
        groups[lora.phase, lora.pipeline, lora.step, lora.state, lora.length].append((lora, alora))
    found = []
    for (phase, pipeline, step, state, length), group in sorted(groups.items()):
        ttft = None if step == "whole" else _ratio(group, lambda one: one.ttft_s)
        found.append(
            {
                "phase": phase,
                "pipeline": pipeline,
                "step": step,
                "state": state,
                "length": length,
                "prompt_tokens": round(statistics.median([lora.prompt_tokens for lora, _ in group])),
                "n": len(group),
                "ttft": ttft.to_json() if ttft else None,
                "e2e": spread.to_json() if (spread := _ratio(group, lambda one: one.e2e_s)) else None,
            }
        )
    return found


def _ratio(group: Sequence[tuple[Sample, Sample]], of: Callable[[Sample], float]) -> Spread | None:
    return Spread.of([of(lora) / of(alora) for lora, alora in group if of(alora) > 0])


def pairs(samples: Iterable[Sample]) -> list[tuple[Sample, Sample]]:
    """Return the calls that both arms made on equal content, several of one kind in their order."""
    arms: dict[str, dict[Key, list[Sample]]] = {"lora": defaultdict(list), "alora": defaultdict(list)}
    for one in sorted(samples, key=lambda sample: sample.at_s):
        if one.arm in arms and not one.error and one.step in COMPARED:
            key = (one.phase, one.pipeline, one.step, one.state, one.length, one.copy, one.rate_per_s)
            arms[one.arm][key].append(one)
    return [
        pair for key, group in arms["lora"].items() for pair in zip(group, arms["alora"].get(key, ()), strict=False)
    ]


def pairs_alone(samples: Iterable[Sample]) -> list[tuple[Sample, Sample]]:
    """Return the pairs of evaluation calls that were made one at a time.

    Several at once wait for each other: that is no call's own saving, and no estimate has it.
    """
    return [
        (lora, alora)
        for lora, alora in pairs(samples)
        if lora.step == "evaluation" and lora.pipeline in ("base-adapter", "base-adapter-base", "adapter-base")
    ]


def savings(samples: Iterable[Sample]) -> dict[str, Any]:
    """Return the TTFT that the platform says aLoRA calls saved, against that of their LoRA twins less theirs."""
    equal = pairs_alone(samples)
    told = [(lora, alora) for lora, alora in equal if alora.saved_s is not None]
    return {
        "pairs": len(equal),
        "estimated_s": round(sum(alora.saved_s or 0.0 for _, alora in told), 4) if told else None,
        "measured_s": round(sum(lora.ttft_s - alora.ttft_s for lora, alora in (told or equal)), 4) if equal else None,
    }


def checks(samples: Sequence[Sample], overflowing: Container[str] = ()) -> list[dict[str, Any]]:
    """Return what was to be reached and what was: ratios on fresh prompts, hits with the router, no failures.

    Args:
        samples: of all phases.
        overflowing: names of phases that are played to fill the KV cache, whose evictions are no miss of the router.
    """
    found = []
    for one in ratios(samples):
        if (one["pipeline"], one["step"], one["state"]) != ("base-adapter", "evaluation", "first"):
            continue
        for what, by_length in (("ttft", TTFT_WANTED), ("e2e", E2E_WANTED)):
            if one["length"] in by_length and one[what]:
                name = f"{what.upper()} LoRA (first) : aLoRA at {one['length']:,} tokens"
                found.append(_check(name, one[what]["p50"], by_length[one["length"]]))
    for arm, wanted in (("alora", HITS_WANTED), ("alora-no-router", 0.0)):
        # In adapter-base the intrinsic comes first: there is nothing to hit.
        calls = [
            one
            for one in samples
            if one.arm == arm
            and one.step == "evaluation"
            and one.pipeline != "adapter-base"
            and one.phase not in overflowing
        ]
        tokens = sum(one.prompt_tokens for one in calls)
        if tokens:
            share = sum(one.cached_tokens for one in calls) / tokens
            found.append(_check(f"cached share of evaluation calls, {arm}", share, wanted))
    failed = sum(1 for one in samples if one.error)
    found.append({"name": "failed calls", "found": failed, "wanted": 0, "met": failed == 0})
    return found


def _check(name: str, found: float, wanted: float) -> dict[str, Any]:
    return {"name": name, "found": round(found, 3), "wanted": wanted, "met": found >= wanted}
