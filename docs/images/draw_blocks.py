"""Draw ``activated-lora.svg``, which blocks are whose: ``python docs/images/draw_blocks.py``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from svg import box, picture, text

HERE = Path(__file__).parent
WIDTH, LEFT, TOP = 780, 160, 108
CELL, GAP, HEIGHT, STEP = 22, 8, 30, 78
BLOCK_TOKENS, BLOCKS = 4, 6
POINT = 18
"""The activation point: the conversation has tokens 0 to 17, the invocation begins here and the answer follows."""

# Per row: name, remark, and runs of (tokens, colour).
ROWS = (
    ("base model", "computes 18 tokens", ((POINT, "base"),)),
    ("aLoRA", "computes 8 of 24", ((16, "reused"), (2, "base"), (6, "adapter"))),
    ("another aLoRA", "computes 8 of 24", ((16, "reused"), (2, "base"), (6, "sibling"))),
    ("plain LoRA", "computes 24 of 24", ((24, "lora"),)),
)
LEGEND = (
    ("reused", "found in the cache"),
    ("base", "base weights"),
    ("adapter", "aLoRA weights"),
    ("sibling", "the other aLoRA's weights"),
    ("lora", "LoRA weights"),
)


def draw() -> str:
    """Return four calls on one conversation, block by block."""
    parts = [text(16, 28, "Four calls on one conversation, in KV blocks of four tokens", size=16, kind="strong")]
    parts += _parts_of_the_prompt()
    for number, (name, remark, runs) in enumerate(ROWS):
        parts += _row(TOP + number * STEP, name, remark, runs)
    bottom = TOP + len(ROWS) * STEP
    parts += _activation_point(bottom)
    parts += _kinds_of_block(TOP + STEP)
    parts += _legend(bottom + 6)
    return picture(WIDTH, bottom + 52, "Which KV blocks base model, aLoRA and LoRA compute and share", parts)


def _x(token: int) -> float:
    """Return where a token's cell begins."""
    return LEFT + token * CELL + token // BLOCK_TOKENS * GAP


def _end(token: int) -> float:
    return _x(token - 1) + CELL


def _row(y: float, name: str, remark: str, runs: tuple[tuple[int, str], ...]) -> list[str]:
    parts = [text(16, y + 14, name, kind="strong"), text(16, y + 30, remark, size=12, kind="muted")]
    kinds = [kind for tokens, kind in runs for _ in range(tokens)]
    return parts + [box(_x(token) + 1, y, CELL - 2, HEIGHT, kind) for token, kind in enumerate(kinds)]


def _parts_of_the_prompt() -> list[str]:
    spans = ((0, POINT, "conversation"), (POINT, POINT + 2, "invocation"), (POINT + 2, 24, "answer"))
    parts = []
    for first, last, label in spans:
        parts.append(f'<path class="line" d="M{_x(first) + 2:g} 84 V80 H{_end(last) - 2:g} V84"/>')
        parts.append(text((_x(first) + _end(last)) / 2, 72, label, size=12, anchor="middle", kind="muted"))
    return parts


def _activation_point(bottom: float) -> list[str]:
    x = _x(POINT)
    line = f'<path class="line" stroke-dasharray="4 3" d="M{x:g} 104 V{bottom - 34:g}"/>'
    return [line, text(x, 100, "activation point", size=12, anchor="middle", kind="strong")]


def _kinds_of_block(y: float) -> list[str]:
    below = y + HEIGHT + 16
    spans = ((0, 16, "base blocks: the base model's keys"), (16, 20, "straddling"), (20, 24, "adapter's"))
    return [
        text((_x(first) + _end(last)) / 2, below, label, size=12, anchor="middle", kind="muted")
        for first, last, label in spans
    ]


def _legend(y: float) -> list[str]:
    parts, x = [], 16.0
    for kind, label in LEGEND:
        parts += [box(x, y, 14, 14, kind), text(x + 20, y + 12, label, size=12)]
        x += 36 + 6.5 * len(label)
    return parts


if __name__ == "__main__":
    (HERE / "activated-lora.svg").write_text(draw(), "utf-8")
