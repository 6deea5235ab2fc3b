"""The report's plots, as SVG in the page."""

from __future__ import annotations

import io
import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from loadtests.samples import Sample

COLORS = {"lora": "#d95f02", "alora": "#1b9e77", "base": "#7570b3", "alora-no-router": "#a6761d", "all": "#999999"}
TIMELINE_SAMPLES = 5000


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


def _evaluations(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in rows if one["step"] == "evaluation" and one["n"] and one["length"]]


def by_length(rows: Sequence[dict[str, Any]], what: str, title: str) -> str:
    """Draw a time by prompt length for each arm and state of ``base-adapter``, with intervals."""

    def paint(axes: Any) -> bool:
        lines: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for one in _evaluations(rows):
            if one["pipeline"] == "base-adapter":
                lines[one["arm"], one["state"]].append(one)
        for (arm, state), group in sorted(lines.items()):
            group.sort(key=lambda one: one["prompt_tokens"])
            middle = [one[f"{what}_p50_s"] for one in group]
            low = [max(0.0, mid - one[f"{what}_interval_s"][0]) for mid, one in zip(middle, group, strict=True)]
            high = [max(0.0, one[f"{what}_interval_s"][1] - mid) for mid, one in zip(middle, group, strict=True)]
            axes.errorbar(
                [one["prompt_tokens"] for one in group],
                middle,
                yerr=(low, high),
                label=f"{arm}, {state}",
                color=COLORS.get(arm),
                linestyle="-" if state == "first" else "--",
                marker="o",
                capsize=3,
            )
        axes.set(xlabel="prompt tokens", ylabel="seconds", title=title, xscale="log", yscale="log")
        if lines:
            axes.legend(fontsize=8)
        return bool(lines)

    return _draw(paint)


def ratio_curve(ratios: Sequence[dict[str, Any]]) -> str:
    """Draw LoRA : aLoRA by prompt length."""

    def paint(axes: Any) -> bool:
        fresh = [one for one in ratios if one["pipeline"] == "base-adapter" and one["step"] == "evaluation"]
        for state, what in itertools.product(("first", "returning"), ("ttft", "e2e")):
            group = sorted((one for one in fresh if one["state"] == state and one[what]), key=lambda one: one["length"])
            if group:
                axes.plot(
                    [one["prompt_tokens"] for one in group],
                    [one[what]["p50"] for one in group],
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
        shares: dict[tuple[str, str], list[float]] = defaultdict(list)
        for one in rows:
            if one["step"] in ("evaluation", "after-adapter") and one["cached_share"] is not None:
                shares[f"{one['pipeline']}\n{one['state']}", one["arm"]].append(one["cached_share"])
        groups = sorted({group for group, _ in shares})
        arms = sorted({arm for _, arm in shares})
        for number, arm in enumerate(arms):
            values = [_mean(shares.get((group, arm), [])) for group in groups]
            places = [at + number * 0.8 / max(len(arms), 1) for at in range(len(groups))]
            axes.bar(places, values, width=0.8 / max(len(arms), 1), label=arm, color=COLORS.get(arm))
        axes.set_xticks([at + 0.3 for at in range(len(groups))], groups, fontsize=7)
        axes.set(ylabel="cached share of the prompt", ylim=(0, 1.05))
        if groups:
            axes.legend(fontsize=8)
        return bool(groups)

    return _draw(paint, width=9)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def throughput(samples: Sequence[Sample]) -> str:
    """Draw answered calls a second of each phase and arm, over the time that its calls took up."""

    def paint(axes: Any) -> bool:
        groups: dict[str, list[Sample]] = defaultdict(list)
        for one in samples:
            if not one.error and one.step != "whole":
                groups[f"{one.phase} {one.arm}"].append(one)
        names = sorted(groups)
        rates = []
        for name in names:
            calls = groups[name]
            begin, end = min(one.at_s for one in calls), max(one.at_s + one.e2e_s for one in calls)
            rates.append(len(calls) / max(end - begin, 1e-9))
        axes.barh(names, rates, color="#4c72b0")
        axes.tick_params(axis="y", labelsize=7)
        axes.set(xlabel="calls a second")
        return bool(names)

    return _draw(paint, height=max(2.0, 0.3 * len({(one.phase, one.arm) for one in samples}) + 1))


def timeline(samples: Sequence[Sample]) -> str:
    """Draw each call's TTFT over time, the phases one after the other."""

    def paint(axes: Any) -> bool:
        calls = [one for one in samples if not one.error and one.step != "whole"][:TIMELINE_SAMPLES]
        starts, last = dict[str, float](), 0.0
        for one in calls:
            if one.phase not in starts:
                starts[one.phase] = last
            last = max(last, starts[one.phase] + one.at_s + one.e2e_s)
        for arm in sorted({one.arm for one in calls}):
            mine = [one for one in calls if one.arm == arm]
            axes.scatter(
                [starts[one.phase] + one.at_s for one in mine],
                [one.ttft_s for one in mine],
                s=8,
                label=arm,
                color=COLORS.get(arm),
            )
        axes.set(xlabel="seconds", ylabel="TTFT in seconds", yscale="log")
        if calls:
            axes.legend(fontsize=8)
        return bool(calls)

    return _draw(paint)


def savings(samples: Sequence[Sample]) -> str:
    """Draw what the platform says that each aLoRA call saved against what its LoRA twin took longer."""
    from loadtests.figures import pairs

    def paint(axes: Any) -> bool:
        told = [
            (lora, alora)
            for lora, alora in pairs(samples)
            if alora.saved_s is not None and alora.step == "evaluation" and alora.pipeline != "multi-adapter"
        ]
        if not told:
            return False
        for state in ("first", "returning"):
            mine = [(lora, alora) for lora, alora in told if alora.state == state]
            axes.scatter(
                [lora.ttft_s - alora.ttft_s for lora, alora in mine],
                [alora.saved_s for _, alora in mine],
                s=12,
                label=state,
            )
        top = max(max(lora.ttft_s, alora.saved_s or 0.0) for lora, alora in told)
        axes.plot([0, top], [0, top], color="#999999", linewidth=0.8)
        axes.set(xlabel="measured: TTFT of LoRA less aLoRA, s", ylabel="estimated, s")
        axes.legend(fontsize=8)
        return True

    return _draw(paint)
