"""Draw ``ttft.svg`` from ``ttft.json``: ``python docs/images/draw_ttft.py``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from svg import box, picture, text

HERE = Path(__file__).parent
WIDTH, LEFT, RIGHT = 760, 150, 130
BAR, STEP, GROUP = 22, 28, 122
SERIES = (
    ("lora_first_ms", "LoRA, first call", "lora"),
    ("lora_returning_ms", "LoRA, returning", "lora-light"),
    ("alora_ms", "aLoRA", "adapter"),
)


def draw(data: dict[str, Any]) -> str:
    """Return bars by prompt length: the shorter, the sooner the first token is there."""
    rows = data["rows"]
    longest = max(row[key] for row in rows for key, _, _ in SERIES)
    scale = (WIDTH - LEFT - RIGHT) / longest
    parts = [text(16, 28, "Time to the first token of an adapter's call on a conversation", size=16, kind="strong")]
    y = 52
    for row in rows:
        parts.append(text(16, y + 14, f"{row['prompt_tokens']:,} prompt tokens", kind="strong"))
        for number, (key, label, kind) in enumerate(SERIES):
            parts += _bar(y + 24 + number * STEP, label, kind, row[key], scale, row.get(key.replace("_ms", "_ratio")))
        y += GROUP
    notes = (
        f"{data['model']}; {data['machine']}",
        f"{data['command']}: {data['statistic']}",
        f"\N{MULTIPLICATION SIGN}: {data['ratios']}",
    )
    parts += [text(16, y + 16 + 17 * number, note, size=12, kind="muted") for number, note in enumerate(notes)]
    return picture(WIDTH, y + 64, _spoken(rows), parts)


def _bar(y: float, label: str, kind: str, value: float, scale: float, ratio: float | None) -> list[str]:
    width = max(2, value * scale)
    times = f" ({ratio:g}\N{MULTIPLICATION SIGN})" if ratio else ""
    return [
        text(LEFT - 10, y + 16, label, anchor="end"),
        box(LEFT, y, width, BAR, kind),
        text(LEFT + width + 8, y + 16, f"{value:,} ms{times}", kind="strong"),
    ]


def _spoken(rows: list[dict[str, Any]]) -> str:
    said = [
        f"at {row['prompt_tokens']:,} prompt tokens "
        + ", ".join(f"{label} {row[key]:,} ms" for key, label, _ in SERIES)
        for row in rows
    ]
    return "Time to first token: " + "; ".join(said)


if __name__ == "__main__":
    (HERE / "ttft.svg").write_text(draw(json.loads((HERE / "ttft.json").read_text("utf-8"))), "utf-8")
