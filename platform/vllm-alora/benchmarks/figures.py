"""Conclusions of the benchmark from its samples: medians, ratios, intervals, verdicts. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["met", "missed", "-"]


@dataclass(frozen=True)
class Spread:
    """A median with the least and the greatest sample, or a mean with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


def median_of(samples: Sequence[float]) -> Spread:
    """Return the median, the least and the greatest of at least one sample."""
    return Spread(statistics.median(samples), min(samples), max(samples), len(samples))


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Return the ratio of each pair; both sequences have the same length.

    Raises:
        ValueError: they have not.
    """
    return [numerator / denominator for numerator, denominator in zip(numerators, denominators, strict=True)]


def student_t(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t, within 0.1 % from 4 degrees of freedom on.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5.

    Args:
        degrees: of freedom, at least 1; below 4 the quantile is exact, from a table.
    """
    if degrees < 4:
        return (12.7062, 4.3027, 3.1824)[degrees - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees ** (power + 1) for power, term in enumerate(terms))


def mean_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """Return the geometric mean of the pairs' ratios and its 95 % interval.

    Logarithms, so that the interval of a : b is the reciprocal of that of b : a.

    Args:
        numerators: of at least two pairs.
        denominators: as many.
    """
    logs = [math.log(ratio) for ratio in ratios(numerators, denominators)]
    middle = statistics.fmean(logs)
    half = student_t(len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return Spread(math.exp(middle), math.exp(middle - half), math.exp(middle + half), len(logs))


@dataclass(frozen=True)
class Target:
    """Target of a figure. Every bound that is set counts."""

    at_most: float | None = None
    at_least: float | None = None
    interval_within: tuple[float, float] | None = None

    def verdict(self, spread: Spread) -> Verdict:
        """Say whether the value, or its whole interval, is within the bounds."""
        kept = [
            self.at_most is None or spread.value <= self.at_most,
            self.at_least is None or spread.value >= self.at_least,
            self.interval_within is None
            or (self.interval_within[0] <= spread.low and spread.high <= self.interval_within[1]),
        ]
        return "met" if all(kept) else "missed"

    def __str__(self) -> str:
        parts = [] if self.at_most is None else [f"<= {self.at_most:g}"]
        parts += [] if self.at_least is None else [f">= {self.at_least:g}"]
        if self.interval_within is not None:
            parts.append(f"in {self.interval_within[0]:g}..{self.interval_within[1]:g}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Row:
    """One line of the result.

    Attributes:
        figure: what was measured.
        spread: the figure.
        unit: of the figure, "" for a ratio.
        target: what it must reach, None if it is only reported.
        note: what the figure was made of, for example the medians of a ratio's two sides.
    """

    figure: str
    spread: Spread
    unit: str = ""
    target: Target | None = None
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """Return whether the target is met, "-" without one."""
        return "-" if self.target is None else self.target.verdict(self.spread)

    def as_json(self) -> dict[str, Any]:
        """Return the row as plain data."""
        return {**asdict(self), "target": str(self.target or ""), "verdict": self.verdict}


@dataclass
class Results:
    """Everything that one run found out."""

    rows: list[Row] = field(default_factory=list)
    curve: dict[str, dict[int, Spread]] = field(default_factory=dict)
    profile: list[dict[str, Any]] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Keep a row and print it, so that an interrupted run has shown what it had."""
        self.rows.append(row)
        print(
            f"  = {row.figure}: {shown(row.spread)} {row.unit} [{row.target or 'reported'}: {row.verdict}]", flush=True
        )

    def as_json(self) -> dict[str, Any]:
        """Return the results as plain data."""
        curve = {name: {str(at): asdict(spread) for at, spread in line.items()} for name, line in self.curve.items()}
        return {
            "rows": [row.as_json() for row in self.rows],
            "curve_ms": curve,
            "decode_profile": self.profile,
            "findings": self.findings,
        }


def shown(spread: Spread) -> str:
    """Return a spread with as many digits as it has meaning."""
    digits = 3 if abs(spread.value) < 10 else 1 if abs(spread.value) < 1000 else 0
    return f"{spread.value:,.{digits}f} ({spread.low:,.{digits}f}-{spread.high:,.{digits}f}, n={spread.n})"


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a plain table of fixed columns."""
    cells = [("figure", "value (low-high, n)", "target", "verdict", "made of")]
    cells += [
        (row.figure, f"{shown(row.spread)} {row.unit}".rstrip(), str(row.target or "report"), row.verdict, row.note)
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
