"""The comparison as a picture: bars of TTFT and hits, an SVG that needs nothing to be shown, alone or in a page."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from aloraserve.simulation.study import PolicyFigures

_WIDTH, _LEFT, _BAR, _GAP, _HEAD = 900, 190, 20, 10, 46
_SHADES = {"ttft_p50_s": "#9ecae1", "ttft_p90_s": "#3182bd", "ttft_p99_s": "#08306b"}


def write_plot(path: Path, figures: Sequence[PolicyFigures], title: str) -> None:
    """Draw to ``path``: a page if it ends in ``.html``, else an SVG."""
    svg = draw(figures, title)
    if path.suffix == ".html":
        head = f'<meta charset="utf-8"><title>{html.escape(title)}</title>'
        svg = f'<!doctype html><html lang="en">{head}<body>{svg}</body></html>\n'
    path.write_text(svg, encoding="utf-8")


def draw(figures: Sequence[PolicyFigures], title: str) -> str:
    """Return the SVG: TTFT p50, p90 and p99 on a scale of square roots, then hits with both bounds."""
    row = _BAR + _GAP
    panel = _HEAD + row * len(figures)
    parts = [_text(10, 22, title, 15, weight="bold")]
    parts += _ttft_panel(figures, 36)
    parts += _hits_panel(figures, 36 + panel + 20)
    height = 36 + 2 * panel + 40
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'font-family="sans-serif"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>'
    )


def _ttft_panel(figures: Sequence[PolicyFigures], top: int) -> list[str]:
    most = max((_figure(router, "ttft_p99_s") for router in figures), default=0.0) or 1.0
    scale = (_WIDTH - _LEFT - 90) / most**0.5
    parts = [_text(10, top + 18, "TTFT in seconds (square-root scale): p50, p90 with its 95 % interval, p99", 13)]
    for number, router in enumerate(figures):
        y = top + _HEAD - 14 + number * (_BAR + _GAP)
        parts.append(_text(10, y + 14, router.policy, 12))
        for name in ("ttft_p99_s", "ttft_p90_s", "ttft_p50_s"):
            width = _figure(router, name) ** 0.5 * scale
            parts.append(
                _rectangle(_LEFT, y, width, _SHADES[name], f"{router.policy} {name}: {_figure(router, name):.3f} s")
            )
        half = router.intervals.get("ttft_p90_s", 0.0)
        if half > 0:
            p90 = _figure(router, "ttft_p90_s")
            ends = [_LEFT + max(value, 0.0) ** 0.5 * scale for value in (p90 - half, p90 + half)]
            parts.append(
                f'<line x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y + _BAR / 2}" y2="{y + _BAR / 2}" '
                'stroke="#d62728" stroke-width="2"/>'
            )
        end = _LEFT + _figure(router, "ttft_p99_s") ** 0.5 * scale
        parts.append(_text(end + 6, y + 14, f"p90 {_figure(router, 'ttft_p90_s'):.3f}", 11))
    return parts


def _hits_panel(figures: Sequence[PolicyFigures], top: int) -> list[str]:
    scale = _WIDTH - _LEFT - 90
    heading = "share of prompt tokens not computed; dashed: one cache of the fleet's size, and an infinite one"
    parts = [_text(10, top + 18, heading, 13)]
    for number, router in enumerate(figures):
        y = top + _HEAD - 14 + number * (_BAR + _GAP)
        hits = _figure(router, "hit_rate")
        parts.append(_text(10, y + 14, router.policy, 12))
        parts.append(_rectangle(_LEFT, y, hits * scale, "#74c476", f"{router.policy} hits: {hits:.3f}"))
        parts.append(_text(_LEFT + hits * scale - 42, y + 14, f"{hits:.3f}", 11))
    bottom = top + _HEAD - 14 + len(figures) * (_BAR + _GAP)
    for name in ("pooled_hit_rate", "oracle_hit_rate"):
        x = _LEFT + (_figure(figures[0], name) if figures else 0.0) * scale
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top + _HEAD - 18}" y2="{bottom}" stroke="#333" '
            'stroke-dasharray="4 3"/>'
        )
    return parts


def _figure(router: PolicyFigures, name: str) -> float:
    value = router.means.get(name, 0.0)
    return value if 0.0 <= value < float("inf") else 0.0


def _text(x: float, y: float, content: str, size: int, *, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}">{html.escape(content)}</text>'


def _rectangle(x: float, y: float, width: float, colour: str, tip: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.0):.1f}" height="{_BAR}" fill="{colour}">'
        f"<title>{html.escape(tip)}</title></rect>"
    )
