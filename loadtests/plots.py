"""The report's plots, as SVG in the page."""

from __future__ import annotations

import io
import itertools
from collections import defaultdict
from collections.abc import Callable, Container, Sequence
from typing import Any

from loadtests.figures import pairs_alone
from loadtests.samples import Sample

COLORS = {"lora": "#d95f02", "alora": "#1b9e77", "base": "#7570b3", "alora-no-router": "#e6ab02", "all": "#999999"}
MARKERS = {"lora": "o", "alora": "s", "base": "^", "alora-no-router": "x", "all": "."}
"""Arms that ignore what the others use lie on one line: only their marks distinguish them."""
TIMELINE_SAMPLES = 5000
UNDER_LOAD = ("conversation", "trace")
"""Pipelines of which many run at once; each phase of them is a load of its own."""


def _draw(paint: Callable[[Any], bool], *, width: float = 8.0, height: float = 3.6) -> str:
    """Return the SVG of one pair of axes; a sentence if there was nothing to paint."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, height))
    try:
        if not paint(axes):
            return "<p>Nothing of this was measured.</p>"
        figure.tight_layout()
        out = io.StringIO()
        figure.savefig(out, format="svg")
        text = out.getvalue()
        return text[text.index("<svg") :]
    finally:
        pyplot.close(figure)


def _evaluations(rows: Sequence[dict[str, Any]], pipelines: Container[str]) -> list[dict[str, Any]]:
    return [row for row in rows if row["step"] == "evaluation" and row["n"] and row["pipeline"] in pipelines]


def _medians(group: Sequence[dict[str, Any]], what: str) -> tuple[list[float], tuple[list[float], list[float]]]:
    """Return the rows' medians of a time, and how far below and above them their intervals reach."""
    middle: list[float] = [row[f"{what}_p50_s"] for row in group]
    ends = [row[f"{what}_interval_s"] for row in group]
    low = [max(0.0, mid - end[0]) for mid, end in zip(middle, ends, strict=True)]
    high = [max(0.0, end[1] - mid) for mid, end in zip(middle, ends, strict=True)]
    return middle, (low, high)


def by_length(rows: Sequence[dict[str, Any]], what: str, title: str) -> str:
    """Draw a time by prompt length for each arm and state of ``base-adapter``, with intervals."""

    def paint(axes: Any) -> bool:
        lines: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for row in _evaluations(rows, ("base-adapter",)):
            lines[row["arm"], row["state"]].append(row)
        for (arm, state), group in sorted(lines.items()):
            group.sort(key=lambda row: row["prompt_tokens"])
            middle, reach = _medians(group, what)
            axes.errorbar(
                [row["prompt_tokens"] for row in group],
                middle,
                yerr=reach,
                label=f"{arm}, {state}",
                color=COLORS.get(arm),
                linestyle="-" if state == "first" else "--",
                marker=MARKERS.get(arm, "o"),
                capsize=3,
            )
        axes.set(xlabel="prompt tokens", ylabel="seconds", title=title, xscale="log", yscale="log")
        if lines:
            axes.legend(fontsize=8)
        return bool(lines)

    return _draw(paint)


def by_load(rows: Sequence[dict[str, Any]], what: str, title: str) -> str:
    """Draw a time of conversations by phase, in the order of the phases, for each arm and state, with intervals.

    Args:
        rows: of the report.
        what: "ttft" or "e2e".
        title: of the plot.
    """

    def paint(axes: Any) -> bool:
        played = _evaluations(rows, UNDER_LOAD)
        phases = sorted({row["phase"] for row in played}, key=_in_order)
        arms = sorted({(row["arm"], row["state"]) for row in played})
        for number, (arm, state) in enumerate(arms):
            group = [row for row in played if (row["arm"], row["state"]) == (arm, state)]
            middle, reach = _medians(group, what)
            axes.errorbar(
                [phases.index(row["phase"]) + 0.6 * (number + 0.5) / len(arms) - 0.3 for row in group],
                middle,
                yerr=reach,
                label=f"{arm}, {state}",
                color=COLORS.get(arm),
                marker=MARKERS.get(arm, "o"),
                fillstyle="full" if state == "first" else "none",
                linestyle="none",
                capsize=2,
            )
        axes.set_xticks(range(len(phases)), phases, fontsize=7)
        axes.set(ylabel="seconds", title=title, yscale="log")
        if phases:
            axes.legend(fontsize=7, ncols=2)
        return bool(phases)

    return _draw(paint, width=9)


def _in_order(name: str) -> tuple[str, float]:
    """Return what sorts "overflow-4" before "overflow-16"."""
    kind, _, number = name.rpartition("-")
    try:
        return kind, float(number)
    except ValueError:
        return name, 0.0


def ratio_curve(ratios: Sequence[dict[str, Any]]) -> str:
    """Draw LoRA : aLoRA by prompt length."""

    def paint(axes: Any) -> bool:
        fresh = [ratio for ratio in ratios if ratio["pipeline"] == "base-adapter" and ratio["step"] == "evaluation"]
        for state, what in itertools.product(("first", "returning"), ("ttft", "e2e")):
            known = [ratio for ratio in fresh if ratio["state"] == state and ratio[what]]
            group = sorted(known, key=lambda ratio: int(ratio["length"]))
            if group:
                axes.plot(
                    [ratio["prompt_tokens"] for ratio in group],
                    [ratio[what]["p50"] for ratio in group],
                    marker="o",
                    label=f"{what.upper()}, LoRA {state}",
                )
        axes.axhline(1, color="#999999", linewidth=0.8)
        axes.set(xlabel="prompt tokens", ylabel="LoRA : aLoRA", xscale="log", yscale="log")
        if fresh:
            axes.legend(fontsize=8)
        return bool(fresh)

    return _draw(paint)


def cached_shares(rows: Sequence[dict[str, Any]]) -> str:
    """Draw the share of prompt tokens that were cached, by pipeline and arm."""

    def paint(axes: Any) -> bool:
        shares: dict[tuple[tuple[str, str], str], list[float]] = defaultdict(list)
        for row in rows:
            if row["step"] in ("evaluation", "after-adapter") and row["cached_share"] is not None:
                name = row["phase"] if row["pipeline"] in UNDER_LOAD else row["pipeline"]
                shares[(name, row["state"]), row["arm"]].append(row["cached_share"])
        groups = sorted({group for group, _ in shares}, key=lambda group: (_in_order(group[0]), group))
        arms = sorted({arm for _, arm in shares})
        for number, arm in enumerate(arms):
            values = [_mean(shares.get((group, arm), [])) for group in groups]
            places = [at + number * 0.8 / max(len(arms), 1) for at in range(len(groups))]
            axes.bar(places, values, width=0.8 / max(len(arms), 1), label=arm, color=COLORS.get(arm))
        names = ["\n".join(group) for group in groups]
        axes.set_xticks([at + 0.3 for at in range(len(groups))], names, fontsize=6 if len(groups) > 8 else 7)
        axes.set(ylabel="cached share of the prompt", ylim=(0, 1.05))
        if groups:
            axes.legend(fontsize=8, ncols=len(arms), loc="upper center", bbox_to_anchor=(0.5, 1.15))
        return bool(groups)

    return _draw(paint, width=12)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def throughput(samples: Sequence[Sample]) -> str:
    """Draw answered calls per second of each phase and arm, over the time that its calls took up."""

    def paint(axes: Any) -> bool:
        groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
        for sample in samples:
            if not sample.error and sample.step != "whole":
                groups[sample.phase, sample.arm].append(sample)
        # The first at the top.
        keys = sorted(groups, key=lambda key: (_in_order(key[0]), key[1]), reverse=True)
        rates = []
        for key in keys:
            calls = groups[key]
            begin, end = min(sample.at_s for sample in calls), max(sample.at_s + sample.e2e_s for sample in calls)
            rates.append(len(calls) / max(end - begin, 1e-9))
        colors = [COLORS.get(arm, "#4c72b0") for _, arm in keys]
        axes.barh([f"{phase} {arm}" for phase, arm in keys], rates, color=colors)
        axes.tick_params(axis="y", labelsize=7)
        axes.set(xlabel="calls per second")
        return bool(keys)

    return _draw(paint, height=max(2.0, 0.3 * len({(sample.phase, sample.arm) for sample in samples}) + 1))


def timeline(samples: Sequence[Sample]) -> str:
    """Draw each call's TTFT over time, the phases one after the other; arms of one phase lie over each other."""

    def paint(axes: Any) -> bool:
        calls = [sample for sample in samples if not sample.error and sample.step != "whole"][:TIMELINE_SAMPLES]
        starts, last = dict[str, float](), 0.0
        for sample in calls:
            if sample.phase not in starts:
                starts[sample.phase] = last
            last = max(last, starts[sample.phase] + sample.at_s + sample.e2e_s)
        for arm in sorted({sample.arm for sample in calls}):
            mine = [sample for sample in calls if sample.arm == arm]
            axes.scatter(
                [starts[sample.phase] + sample.at_s for sample in mine],
                [sample.ttft_s for sample in mine],
                s=8,
                marker=MARKERS.get(arm, "o"),
                label=arm,
                color=COLORS.get(arm),
            )
        axes.set(xlabel="seconds", ylabel="TTFT in seconds", yscale="log")
        if calls:
            axes.legend(fontsize=8)
        return bool(calls)

    return _draw(paint)


def savings(samples: Sequence[Sample]) -> str:
    """Draw each aLoRA call's estimated saving, of calls made alone, against what its LoRA twin took longer."""

    def paint(axes: Any) -> bool:
        estimated = [pair for pair in pairs_alone(samples) if pair[1].saved_s is not None]
        if not estimated:
            return False
        for state in ("first", "returning"):
            mine = [(lora, alora) for lora, alora in estimated if alora.state == state]
            axes.scatter(
                [lora.ttft_s - alora.ttft_s for lora, alora in mine],
                [alora.saved_s for _, alora in mine],
                s=12,
                label=state,
            )
        top = max(max(lora.ttft_s, alora.saved_s or 0.0) for lora, alora in estimated)
        axes.plot([0, top], [0, top], color="#999999", linewidth=0.8)
        axes.set(xlabel="measured: TTFT of LoRA less aLoRA, s", ylabel="estimated, s")
        axes.legend(fontsize=8)
        return True

    return _draw(paint)
