"""From samples to figures: rows, ratios of equal conversations, savings, and what was to be reached."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

from benchmarks.harness.stats import Interval, median_interval, percentile
from loadtests.samples import Sample

Key = tuple[Any, ...]
TTFT_WANTED = {500: 8.0, 2000: 30.0, 7500: 100.0}
"""Least TTFT ratios of a LoRA's first call and the aLoRA's, ``base-adapter``, by length."""
E2E_WANTED = {7500: 13.0}
HITS_WANTED = 0.95
COMPARED = ("evaluation", "whole", "after-adapter")


def interval_json(interval: Interval) -> dict[str, float]:
    """Return a median and its interval as the report has them."""
    return {
        "p50": round(interval.middle, 4),
        "low": round(interval.low, 4),
        "high": round(interval.high, 4),
    }


def rows(samples: Iterable[Sample]) -> list[dict[str, Any]]:
    """Return one row for each phase, pipeline, arm, step, state, length and rate."""
    groups: dict[Key, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[_row_key(sample)].append(sample)
    return [_row(key, group) for key, group in sorted(groups.items(), key=lambda pair: tuple(map(str, pair[0])))]


def _row_key(sample: Sample) -> Key:
    return (
        *(sample.phase, sample.pipeline, sample.arm, sample.step),
        *(sample.state, sample.length, sample.rate_per_s),
    )


def _row(key: Key, group: list[Sample]) -> dict[str, Any]:
    phase, pipeline, arm, step, state, length, rate = key
    good = [sample for sample in group if not sample.error]
    prompt = sum(sample.prompt_tokens for sample in good)
    calls = good if step != "whole" else []
    ttft, e2e = [call.ttft_s for call in calls], [sample.e2e_s for sample in good]
    return {
        "phase": phase,
        "pipeline": pipeline,
        "arm": arm,
        "step": step,
        "state": state,
        "length": length,
        "rate_per_s": rate,
        "prompt_tokens": round(statistics.median([sample.prompt_tokens for sample in good])) if good else 0,
        "n": len(good),
        "failed": len(group) - len(good),
        "ttft_p50_s": _percentile(ttft, 0.5),
        "ttft_p90_s": _percentile(ttft, 0.9),
        "ttft_interval_s": _interval(ttft),
        "queue_p50_s": _percentile((sample.queue_s for sample in good), 0.5),
        "prefill_p50_s": _percentile((sample.prefill_s for sample in good), 0.5),
        "decode_p50_s": _percentile((call.decode_s for call in calls), 0.5),
        "itl_p50_s": _percentile((sample.itl_s for sample in good), 0.5),
        "e2e_p50_s": _percentile(e2e, 0.5),
        "e2e_interval_s": _interval(e2e),
        "cached_share": round(sum(sample.cached_tokens for sample in good) / prompt, 4) if prompt else None,
    }


def _interval(values: Sequence[float]) -> list[float] | None:
    if not values:
        return None
    interval = median_interval(values)
    return [round(interval.low, 6), round(interval.high, 6)]


def _percentile(values: Iterable[float | None], share: float) -> float | None:
    """Return the percentile of the values that are known, None of none."""
    known = [value for value in values if value is not None]
    return round(percentile(known, share), 6) if known else None


def ratios(samples: Iterable[Sample]) -> list[dict[str, Any]]:
    """Return LoRA : aLoRA of calls with equal content, by phase, pipeline, step, state and length."""
    groups: dict[Key, list[tuple[Sample, Sample]]] = defaultdict(list)
    for lora, alora in pairs(samples):
        groups[lora.phase, lora.pipeline, lora.step, lora.state, lora.length].append((lora, alora))
    found = []
    for (phase, pipeline, step, state, length), group in sorted(groups.items()):
        found.append(
            {
                "phase": phase,
                "pipeline": pipeline,
                "step": step,
                "state": state,
                "length": length,
                "prompt_tokens": round(statistics.median([lora.prompt_tokens for lora, _ in group])),
                "n": len(group),
                "ttft": None if step == "whole" else _ratio(group, lambda call: call.ttft_s),
                "e2e": _ratio(group, lambda call: call.e2e_s),
            }
        )
    return found


def _ratio(group: Sequence[tuple[Sample, Sample]], figure: Callable[[Sample], float]) -> dict[str, float] | None:
    found = [figure(lora) / figure(alora) for lora, alora in group if figure(alora) > 0]
    return interval_json(median_interval(found)) if found else None


def pairs(samples: Iterable[Sample]) -> list[tuple[Sample, Sample]]:
    """Return the calls that both arms made on equal content, several of one kind in their order."""
    arms: dict[str, dict[Key, list[Sample]]] = {"lora": defaultdict(list), "alora": defaultdict(list)}
    for sample in sorted(samples, key=lambda sample: sample.at_s):
        if sample.arm in arms and not sample.error and sample.step in COMPARED:
            place = (sample.phase, sample.pipeline, sample.step, sample.state, sample.length)
            arms[sample.arm][*place, sample.variant, sample.rate_per_s].append(sample)
    return [
        pair for key, group in arms["lora"].items() for pair in zip(group, arms["alora"].get(key, ()), strict=False)
    ]


def pairs_alone(samples: Iterable[Sample]) -> list[tuple[Sample, Sample]]:
    """Return the pairs of evaluation calls that were made one at a time.

    Several at once wait for each other, and twins on other replicas for others than their estimates count.
    """
    return [
        (lora, alora)
        for lora, alora in pairs(samples)
        if lora.step == "evaluation" and lora.pipeline in ("base-adapter", "base-adapter-base", "adapter-base")
    ]


def savings(samples: Iterable[Sample]) -> dict[str, Any]:
    """Return the TTFT that the platform says aLoRA calls saved, against that of their LoRA twins less theirs."""
    equal = pairs_alone(samples)
    estimated = [(lora, alora) for lora, alora in equal if alora.saved_s is not None]
    return {
        "pairs": len(equal),
        "estimated_s": round(sum(alora.saved_s or 0.0 for _, alora in estimated), 4) if estimated else None,
        "measured_s": round(sum(lora.ttft_s - alora.ttft_s for lora, alora in (estimated or equal)), 4)
        if equal
        else None,
    }


def checks(samples: Sequence[Sample], overflowing: Container[str] = ()) -> list[dict[str, Any]]:
    """Return what was to be reached and what was: ratios on fresh prompts, hits with the router, no failures.

    Args:
        samples: of all phases.
        overflowing: names of phases that are played to fill the KV cache, whose evictions are not a miss of the router.
    """
    found = []
    for ratio in ratios(samples):
        if (ratio["pipeline"], ratio["step"], ratio["state"]) != ("base-adapter", "evaluation", "first"):
            continue
        length = ratio["length"]
        for what, by_length in (("ttft", TTFT_WANTED), ("e2e", E2E_WANTED)):
            if length in by_length and ratio[what]:
                name = f"{what.upper()} LoRA (first) : aLoRA at {length:,} tokens"
                found.append(_check(name, ratio[what]["p50"], by_length[length]))
    for arm, wanted in (("alora", HITS_WANTED), ("alora-no-router", 0.0)):
        # In adapter-base the intrinsic comes first: there is nothing to hit.
        calls = [
            sample
            for sample in samples
            if sample.arm == arm
            and sample.step == "evaluation"
            and sample.pipeline != "adapter-base"
            and sample.phase not in overflowing
        ]
        tokens = sum(call.prompt_tokens for call in calls)
        if tokens:
            share = sum(call.cached_tokens for call in calls) / tokens
            found.append(_check(f"cached share of evaluation calls, {arm}", share, wanted))
    failed = sum(1 for sample in samples if sample.error)
    found.append({"name": "failed calls", "found": failed, "wanted": 0, "met": failed == 0})
    return found


def _check(name: str, found: float, wanted: float) -> dict[str, Any]:
    return {"name": name, "found": round(found, 3), "wanted": wanted, "met": found >= wanted}
