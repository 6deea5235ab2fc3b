"""A flame graph as a small SVG without scripts: width is time, each bar lies on its caller, and names its file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from html import escape

WIDTH, ROW, CHARACTER = 1200, 15, 6.2
MIN_WIDTH = 2.0
"""Of a bar; what is narrower is left out, with all that lies on it."""


@dataclass(slots=True)
class _Frame:
    count: int = 0
    callees: dict[str, _Frame] = field(default_factory=dict)


def flame_graph(stacks: Counter[str], title: str) -> str:
    """Return the SVG of stacks.

    Args:
        stacks: how often each was seen, its frames from the outermost in, separated by semicolons.
        title: above the graph.
    """
    root = _Frame(stacks.total())
    for stack, count in stacks.items():
        frame = root
        for name in stack.split(";"):
            frame = frame.callees.setdefault(name, _Frame())
            frame.count += count
    bars: list[str] = []
    scale = WIDTH / max(root.count, 1)
    depth = _draw(root, 0.0, 1, scale, bars)
    height = (depth + 2) * ROW
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="monospace" '
            'font-size="10">',
            f'<text x="4" y="11">{escape(title)}: {root.count} samples</text>',
            *bars,
            "</svg>\n",
        )
    )


def _draw(frame: _Frame, left: float, depth: int, scale: float, bars: list[str]) -> int:
    """Add the bars of what a frame calls; return the depth of the deepest."""
    deepest = depth
    for name, callee in sorted(frame.callees.items()):
        width = callee.count * scale
        if width >= MIN_WIDTH:
            bars.append(_bar(name, left, depth, width))
            deepest = max(deepest, _draw(callee, left, depth + 1, scale, bars))
        left += width
    return deepest


def _bar(name: str, left: float, depth: int, width: float) -> str:
    hue = 15 + sum(name.encode()) % 40
    shown = escape(name[: int(width / CHARACTER)]) if width > 3 * CHARACTER else ""
    y = depth * ROW
    return (
        f'<g><title>{escape(name)}: {width / WIDTH:.1%}</title><rect x="{left:.1f}" y="{y}" width="{width:.1f}" '
        f'height="{ROW - 1}" fill="hsl({hue},80%,70%)"/><text x="{left + 2:.1f}" y="{y + 11}">{shown}</text></g>'
    )
