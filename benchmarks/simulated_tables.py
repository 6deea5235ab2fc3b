"""Tables of a comparison of simulated routers: means over windows, intervals by bootstrap, and who won each window.

Only the traffic is random: each window is another part of the trace, with adapters, keys and lots drawn again. The
bootstrap draws windows, with replacement, and for a difference both routers' figures of the same window. Of five
windows an interval is rough, and somewhat too narrow.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from aloraserve.routing.scheduling import SchedulingPolicy
from aloraserve.simulation.routers import BASELINES, SALTED
from aloraserve.simulation.study import PolicyFigures
from benchmarks.harness.stats import Interval, mean_interval
from benchmarks.simulated_cells import Cell

Figures = Mapping[str, float]
WON = ("ttft_p90_s", "ttft_p99_s")
"""Figures by which a window is won or lost."""


@dataclass(frozen=True, slots=True)
class Setup:
    """All cells but for router and window.

    Args:
        replicas: of the fleet.
        scheduling: the order in which engines begin their calls.
        load: share of saturation.
    """

    replicas: int
    scheduling: SchedulingPolicy
    load: float

    def __str__(self) -> str:
        return f"{self.replicas} replicas, {self.load:.0%}, {self.scheduling}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The routers' figures of one setup, each router's by window.

    Args:
        setup: what they share.
        routers: figures in the order of windows, by router; all have the same windows.
    """

    setup: Setup
    routers: Mapping[str, Sequence[Figures]]

    def interval(self, router: str, figure: str) -> Interval:
        """Return a router's mean over the windows."""
        return mean_interval([window[figure] for window in self.routers[router]])

    def difference(self, router: str, reference: str, figure: str) -> Interval:
        """Return how much more a router has than another in the same window, on average."""
        pairs = zip(self.routers[router], self.routers[reference], strict=True)
        return mean_interval([ours[figure] - theirs[figure] for ours, theirs in pairs])

    def won(self, router: str, figure: str) -> int:
        """Return in how many windows nobody has less than a router."""
        windows = zip(*self.routers.values(), strict=True)
        own = self.routers[router]
        return sum(
            own[number][figure] <= min(other[figure] for other in window) for number, window in enumerate(windows)
        )

    def plotted(self) -> list[PolicyFigures]:
        """Return the figures as :func:`aloraserve.simulation.plot.draw` takes them."""
        return [self._plotted(router, windows) for router, windows in self.routers.items()]

    def _plotted(self, router: str, windows: Sequence[Figures]) -> PolicyFigures:
        intervals = {name: self.interval(router, name) for name in windows[0]}
        means = {name: interval.middle for name, interval in intervals.items()}
        halves = {name: (interval.high - interval.low) / 2 for name, interval in intervals.items()}
        return PolicyFigures(router, means, halves, [dict(window) for window in windows])


def compared(results: Mapping[Cell, Figures]) -> Iterator[Comparison]:
    """Yield the comparisons that cells make, in their order; a router that lacks a window of its setup is left out."""
    setups: dict[Setup, dict[str, dict[int, Figures]]] = {}
    for cell, figures in results.items():
        setup = Setup(cell.replicas, cell.scheduling, cell.load)
        setups.setdefault(setup, {}).setdefault(cell.router, {})[cell.window] = figures
    for setup, routers in setups.items():
        numbers = sorted({number for windows in routers.values() for number in windows})
        whole = {
            router: [windows[number] for number in numbers]
            for router, windows in routers.items()
            if len(windows) == len(numbers)
        }
        yield Comparison(setup, whole)


def markdown(comparisons: Iterable[Comparison], reference: str) -> str:
    """Return all comparisons as Markdown.

    Args:
        comparisons: in the order of their tables.
        reference: the router that the others are compared with; the first of each comparison that lacks it.
    """
    return "\n\n".join(part for comparison in comparisons for part in _sections(comparison, reference))


def _sections(comparison: Comparison, reference: str) -> Iterator[str]:
    if reference not in comparison.routers:
        reference = next(iter(comparison.routers))
    yield f"### {comparison.setup}"
    yield _summary(comparison, reference)
    yield _windows(comparison)


def _summary(comparison: Comparison, reference: str) -> str:
    heads = ["router", "adapters", "TTFT mean", "p50", "p90", "p99", "hits", "TPOT mean, ms", "p99"]
    heads += [f"p90 less `{reference}`'s", "p99 likewise", "windows won, p90", "p99"]
    rows = [_summary_row(comparison, router, reference) for router in comparison.routers]
    return _table(heads, rows)


def _summary_row(comparison: Comparison, router: str, reference: str) -> list[str]:
    def mean(figure: str) -> float:
        return comparison.interval(router, figure).middle

    differences = ["", ""]
    if router != reference:
        differences = [_signed(comparison.difference(router, reference, figure)) for figure in WON]
    count = len(comparison.routers[router])
    return [
        f"`{router}`",
        adapters_of(router),
        _seconds(mean("ttft_mean_s")),
        _seconds(mean("ttft_p50_s")),
        _bounded(comparison.interval(router, "ttft_p90_s")),
        _bounded(comparison.interval(router, "ttft_p99_s")),
        f"{mean('hit_rate'):.3f}",
        f"{1000 * mean('tpot_mean_s'):.0f}",
        f"{1000 * mean('tpot_p99_s'):.0f}",
        *differences,
        *(f"{comparison.won(router, figure)} of {count}" for figure in WON),
    ]


def _windows(comparison: Comparison) -> str:
    count = len(next(iter(comparison.routers.values())))
    heads = ["p90, p99 by window", *(str(number + 1) for number in range(count))]
    rows = [
        [f"`{router}`", *(", ".join(_seconds(window[figure]) for figure in WON) for window in windows)]
        for router, windows in comparison.routers.items()
    ]
    bounds = statistics.fmean(window["pooled_hit_rate"] for window in next(iter(comparison.routers.values())))
    return f"One cache of the fleet's size has {bounds:.3f} of the prompts' tokens.\n\n{_table(heads, rows)}"


def adapters_of(router: str) -> str:
    """Return what a router knows of adapters."""
    if router in SALTED:
        return "salted"
    if router in BASELINES:
        return "blind"
    return "not asked" if router == "session-hash" else "exact"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _seconds(seconds: float) -> str:
    """Return a time with three figures that mean something."""
    return f"{seconds:.2f}" if seconds < 9.995 else f"{seconds:.1f}" if seconds < 99.95 else f"{seconds:.0f}"


def _bounded(interval: Interval) -> str:
    return f"{_seconds(interval.middle)} ({_seconds(interval.low)} to {_seconds(interval.high)})"


def _signed(interval: Interval) -> str:
    return f"{interval.middle:+.2f} ({interval.low:+.2f} to {interval.high:+.2f})"
