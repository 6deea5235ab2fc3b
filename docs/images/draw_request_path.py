"""Draw ``request-path.svg``, how a call travels: ``python docs/images/draw_request_path.py``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from svg import arrow_head, picture, text

HERE = Path(__file__).parent
WIDTH, HEIGHT = 780, 330

# Per box: left, top, width, height, name, what it does.
BOXES = (
    (16, 150, 96, 60, "client", ("OpenAI's API",)),
    (222, 110, 190, 140, "gateway", ("template, tokens", "activation point", "block keys", "2 policy: least TTFT")),
    (580, 40, 184, 66, "directory", ("Redis: who holds what",)),
    (580, 160, 184, 60, "replica A", ("vLLM + vllm-alora",)),
    (580, 250, 184, 60, "replica B", ("vLLM + vllm-alora",)),
)
# Per arrow: path, label, where the label is centred.
ARROWS = (
    ("M112 172 H222", "HTTP, model", (167, 164)),
    ("M222 192 H112", "tokens", (167, 208)),
    ("M412 128 C480 128 500 62 580 62", "1 lookup", (468, 84)),
    ("M412 150 C500 150 510 88 580 88", "3 claim", (532, 128)),
    ("M412 180 H580", "4 dispatch: token ids", (496, 174)),
    ("M580 202 H412", "tokens", (496, 218)),
    ("M600 160 V106", "KV events, lease, load", (684, 137)),
)
DASHED = "M412 234 C480 234 500 280 580 280"


def draw() -> str:
    """Return the boxes of the platform and what goes between them."""
    parts = [text(16, 28, "How a call travels", size=16, kind="strong"), arrow_head()]
    for left, top, width, height, name, lines in BOXES:
        parts.append(f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="6" class="line"/>')
        parts.append(text(left + width / 2, top + 24, name, anchor="middle", kind="strong"))
        for number, line in enumerate(lines):
            parts.append(text(left + width / 2, top + 44 + 18 * number, line, size=12, anchor="middle", kind="muted"))
    for path, label, (x, y) in ARROWS:
        parts.append(f'<path class="line" marker-end="url(#head)" d="{path}"/>')
        parts.append(text(x, y, label, size=12, anchor="middle"))
    parts.append(f'<path class="line" stroke-dasharray="4 3" d="{DASHED}"/>')
    parts.append(text(470, 300, "or here, where waiting costs less", size=12, anchor="middle", kind="muted"))
    return picture(WIDTH, HEIGHT, "Client, gateway, directory and replicas, and what a call does with each", parts)


if __name__ == "__main__":
    (HERE / "request-path.svg").write_text(draw(), "utf-8")
