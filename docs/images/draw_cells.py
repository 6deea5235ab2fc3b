"""Draw ``cells.svg``, a fleet in cells: ``python docs/images/draw_cells.py``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from svg import arrow_head, box, picture, text

HERE = Path(__file__).parent
WIDTH, HEIGHT = 780, 300
CELLS = 3
REPLICAS = 8
TOP, STEP = 48, 80


def draw() -> str:
    """Return a gateway, three cells with a directory each, and where the calls of two applications go."""
    parts = [text(16, 28, "A fleet in cells", size=16, kind="strong"), arrow_head()]
    parts.append(f'<rect x="190" y="{TOP}" width="130" height="{CELLS * STEP - 16}" rx="6" class="line"/>')
    parts.append(text(255, 140, "any gateway", anchor="middle", kind="strong"))
    parts.append(text(255, 160, "a router for each cell", size=12, anchor="middle", kind="muted"))
    for cell in range(CELLS):
        parts += _cell(cell, TOP + STEP * cell)
    parts += _call(TOP + 30, "application A", "base")
    parts += _call(TOP + 2 * STEP + 30, "application B", "adapter")
    parts.append('<path class="line" marker-end="url(#head)" d="M320 78 H470"/>')
    parts.append(text(395, 72, "home", size=12, anchor="middle"))
    parts.append('<path class="line" marker-end="url(#head)" d="M320 238 H470"/>')
    parts.append(text(395, 232, "home", size=12, anchor="middle"))
    parts.append(
        '<path class="line" stroke-dasharray="4 3" marker-end="url(#head)" d="M320 218 C390 218 400 168 470 168"/>'
    )
    parts.append(text(395, 160, "spilled, by conversation", size=12, anchor="middle", kind="muted"))
    return picture(WIDTH, HEIGHT, "Applications have a home among the cells; calls spill where it is loaded", parts)


def _cell(cell: int, top: int) -> list[str]:
    parts = [f'<rect x="470" y="{top}" width="294" height="64" rx="6" class="line"/>']
    parts.append(text(482, top + 26, f"cell {cell}", kind="strong"))
    parts.append(text(482, top + 46, "directory", size=12, kind="muted"))
    parts += [box(560 + 24 * replica, top + 22, 18, 22, "reused") for replica in range(REPLICAS)]
    return parts


def _call(y: int, name: str, kind: str) -> list[str]:
    return [
        box(16, y - 14, 10, 14, kind),
        text(32, y - 2, name),
        f'<path class="line" marker-end="url(#head)" d="M130 {y - 6} H190"/>',
    ]


if __name__ == "__main__":
    (HERE / "cells.svg").write_text(draw(), "utf-8")
