"""The plots of a report, as SVG whose text and lines take the page's colour."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from aloraserve.training.bootstrap import Estimate
from aloraserve.training.results import ArmResult, EvaluationReport
from aloraserve_services.extras import require
from aloraserve_services.training.report.figures import TITLES
from aloraserve_services.training.report.paper import PAPER

COLOURS = {"majority": "#8c8c8c", "base": "#7570b3", "told": "#a6761d", "lora": "#d95f02", "alora": "#1b9e77"}
COLOURS["compared"] = "#66a61e"
_INK = "#010203"
"""The colour that matplotlib draws text and lines in; the page's colour takes its place."""
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "aloraserve",
    "font.family": "sans-serif",
    "font.size": 9,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color", "ytick.color"), _INK
    ),
}

Bar = tuple[str, str, Estimate | float, bool]
"""Name, colour, height, and whether it is ours."""


def errors_by_task(reports: Sequence[EvaluationReport]) -> str:
    """Draw LoRA's and aLoRA's error for each task, ours and the paper's: its Fig. 3."""

    def bars(report: EvaluationReport) -> list[Bar]:
        found: list[Bar] = [
            _bar(report, arm) for arm in report.arms if arm.through != "platform" and arm.role != "compared"
        ]
        if (paper := PAPER.get(report.task)) and paper.lora is not None and paper.alora is not None:
            found += [("LoRA, paper", COLOURS["lora"], paper.lora, False)]
            found += [("aLoRA, paper", COLOURS["alora"], paper.alora, False)]
        return found

    return _bar_panels(reports, bars)


def tokens_by_task(reports: Sequence[EvaluationReport]) -> str:
    """Draw the error with one invocation token and with several for each task, ours and the paper's: its Fig. 4."""

    def bars(report: EvaluationReport) -> list[Bar]:
        arms = [arm for arm in report.arms if arm.through == "peft" and arm.role in ("alora", "compared")]
        arms.sort(key=lambda arm: int(arm.facts.get("invocation tokens", "0")))
        found: list[Bar] = [(_tokens(arm), COLOURS[arm.role], arm.figures[report.primary], True) for arm in arms]
        if (paper := PAPER.get(report.task)) and paper.single is not None and paper.several is not None:
            found += [("one token, paper", COLOURS["alora"], paper.single, False)]
            found += [("several, paper", COLOURS["compared"], paper.several, False)]
        return found

    return _bar_panels([report for report in reports if report.arm("compared")], bars)


def reliability(report: EvaluationReport) -> str:
    """Draw what was said against what came true for each arm that says probabilities; a dot is as large as its bin."""
    arms = [arm for arm in report.arms if arm.reliability and arm.through == "peft"]
    with _axes(1, 4.6, 4.2) as (figure, [axes]):
        axes.plot([0, 1], [0, 1], color="#8c8c8c", linewidth=0.8, linestyle="--")
        for arm in arms:
            bins = [one for one in arm.reliability if one.items]
            said, seen = [one.said for one in bins], [one.observed for one in bins]
            sizes = [8 + 200 * one.items / max(report.items, 1) for one in bins]
            axes.plot(said, seen, color=COLOURS[arm.role], linewidth=1, label=arm.name)
            axes.scatter(said, seen, s=sizes, color=COLOURS[arm.role], alpha=0.7)
        axes.set(xlabel="said", ylabel="came true", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axes.legend(loc="upper left", fontsize=8, frameon=False)
        return _svg(figure)


def error_by_rank(
    lines: Sequence[tuple[str, str, Sequence[tuple[int, Estimate]]]],
    levels: Sequence[tuple[str, str, float]],
    figure_name: str,
) -> str:
    """Draw a figure over the rank for each kind, with intervals.

    Args:
        lines: name, role and points of each.
        levels: name, role and height of lines that have no rank, such as the majority class.
        figure_name: of the figure.
    """
    with _axes(1, 6.4, 3.8) as (figure, [axes]):
        for number, (name, role, points) in enumerate(lines):
            # Beside each other, so that intervals are seen.
            ranks = [rank * 2 ** (0.08 * (number - (len(lines) - 1) / 2)) for rank, _ in points]
            values, ends = [found.value for _, found in points], _reach([found for _, found in points])
            axes.errorbar(ranks, values, yerr=ends, color=COLOURS[role], marker="os"[number % 2], capsize=3, label=name)
        for name, role, level in levels:
            axes.axhline(level, color=COLOURS[role], linewidth=0.9, linestyle="--", label=name)
        ticks = sorted({rank for _, _, points in lines for rank, _ in points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(rank) for rank in ticks])
        axes.set(xlabel="rank", ylabel=TITLES[figure_name], ylim=(0, None))
        axes.legend(loc="upper right", fontsize=8, frameon=False)
        return _svg(figure)


def _bar(report: EvaluationReport, arm: ArmResult) -> Bar:
    return arm.name, COLOURS[arm.role], arm.figures[report.primary], True


def _tokens(arm: ArmResult) -> str:
    count = arm.facts.get("invocation tokens", "?")
    return "one token" if count == "1" else f"{count} tokens"


def _bar_panels(reports: Sequence[EvaluationReport], bars: Callable[[EvaluationReport], Sequence[Bar]]) -> str:
    with _axes(max(len(reports), 1), 3.2, 3.2) as (figure, panels):
        for axes, report in zip(panels, reports, strict=False):
            _draw_bars(axes, bars(report))
            axes.set_title(f"{report.task}: {TITLES[report.primary]}", fontsize=9)
        return _svg(figure)


def _draw_bars(axes: Any, bars: Sequence[Bar]) -> None:
    for place, (_, colour, found, is_ours) in enumerate(bars):
        height = found.value if isinstance(found, Estimate) else found
        ends = _reach([found]) if isinstance(found, Estimate) else None
        look = {"color": colour} if is_ours else {"facecolor": "none", "edgecolor": colour, "hatch": "///"}
        axes.bar(place, height, width=0.7, yerr=ends, capsize=3, ecolor=_INK, **look)
    names = [name.replace(", ", ",\n").replace("base model", "base") for name, *_ in bars]
    axes.set_xticks(range(len(bars)), names, rotation=90, fontsize=8)
    axes.set_ylim(0, None)


def _reach(found: Sequence[Estimate]) -> list[list[float]]:
    """Return how far below and above its figure each interval reaches."""
    pairs = [(one.value - one.low, one.high - one.value) for one in found]
    return [[0.0 if math.isnan(pair[end]) else max(0.0, pair[end]) for pair in pairs] for end in (0, 1)]


@contextmanager
def _axes(count: int, width: float, height: float) -> Iterator[tuple[Any, Sequence[Any]]]:
    """Give a figure with axes beside each other, each of that size in inches."""
    require("train", "drawing plots", "matplotlib")
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with matplotlib.rc_context(_STYLE):
        figure, axes = pyplot.subplots(1, count, figsize=(width * count, height), squeeze=False)
        try:
            yield figure, list(axes[0])
        finally:
            pyplot.close(figure)


def _svg(figure: Any) -> str:
    figure.tight_layout()
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :].replace(_INK, "currentColor")
