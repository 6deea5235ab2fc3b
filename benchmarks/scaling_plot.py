"""Scalers as dots: what they cost by what users see of it, a panel for each traffic."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

WIDTH, HEIGHT, LEFT, TOP, GAP = 430, 300, 60, 60, 40
COLOURS = {
    "aloraserve": "#d62728",
    "serve-default": "#3182bd",
    "hpa-kv-usage": "#74c476",
    "keda-queue": "#9467bd",
    "constant": "#333333",
}
FLOOR = 1e-4
"""Violations below it are drawn on it: the scale is logarithmic."""


class Dot(NamedTuple):
    """One scaler with one setting.

    Args:
        traffic: its panel.
        scaler: its name.
        setting: of it.
        replica_hours: to the right.
        violations: upwards, a share.
    """

    traffic: str
    scaler: str
    setting: str
    replica_hours: float
    violations: float


def write_scatter(path: Path, dots: Sequence[Dot]) -> None:
    """Draw an SVG, two panels in a row."""
    traffics = list(dict.fromkeys(dot.traffic for dot in dots))
    rows = math.ceil(len(traffics) / 2)
    parts = ['<rect width="100%" height="100%" fill="white"/>', *_legend()]
    for number, traffic in enumerate(traffics):
        left = LEFT + number % 2 * (WIDTH + GAP)
        top = TOP + number // 2 * (HEIGHT + GAP + 40)
        parts += _panel([dot for dot in dots if dot.traffic == traffic], traffic, left, top)
    width, height = LEFT + 2 * (WIDTH + GAP), TOP + rows * (HEIGHT + GAP + 40)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif">{"".join(parts)}</svg>\n',
        "utf-8",
    )


def _legend() -> Iterator[str]:
    for number, (scaler, colour) in enumerate(COLOURS.items()):
        left = LEFT + number * 130
        yield f'<circle cx="{left}" cy="20" r="5" fill="{colour}"/>'
        yield _text(left + 10, 24, scaler, 12)


def _panel(dots: Sequence[Dot], title: str, left: int, top: int) -> Iterator[str]:
    most_hours = 1.1 * max(dot.replica_hours for dot in dots)
    yield _text(left, top - 10, title, 14)
    yield f'<rect x="{left}" y="{top}" width="{WIDTH - 40}" height="{HEIGHT}" fill="none" stroke="#999"/>'
    for share in (1.0, 0.1, 0.01, 0.001, 0.0001):
        y = top + _height(share)
        yield f'<line x1="{left}" x2="{left + WIDTH - 40}" y1="{y:.1f}" y2="{y:.1f}" stroke="#eee"/>'
        yield _text(left - 46, y + 4, f"{share:g}" if share > FLOOR else "0", 10)
    yield _text(left, top + HEIGHT + 30, f"replica-hours, 0 to {most_hours:.1f}; upwards the share of violations", 11)
    for dot in dots:
        x = left + dot.replica_hours / most_hours * (WIDTH - 40)
        tip = f"{dot.scaler}, {dot.setting}: {dot.violations:.2%} at {dot.replica_hours:.2f} h"
        yield (
            f'<circle cx="{x:.1f}" cy="{top + _height(dot.violations):.1f}" r="5" fill="{COLOURS.get(dot.scaler)}" '
            f'fill-opacity="0.8"><title>{html.escape(tip)}</title></circle>'
        )


def _height(share: float) -> float:
    return math.log(max(share, FLOOR)) / math.log(FLOOR) * HEIGHT


def _text(x: float, y: float, content: str, size: int) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}">{html.escape(content)}</text>'
