"""Report of the demo: one row per call as it comes, then the summary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from aloraserve_services.cli.demo_figures import Comparison, comparisons, summary
from aloraserve_services.cli.demo_judgements import judgements, print_judgements
from aloraserve_services.cli.demo_player import Row

_WIDTHS = (5, 18, 5, 9, 6, 6, 9, 9)
_HEADS = ("turn", "adapter", "kind", "replica", "prompt", "cached", "TTFT", "state")
_COLOURS = {"base": "white", "alora": "green", "lora": "yellow"}


class RowPrinter:
    """Prints rows live, with a heading for each conversation.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._conversation = ""

    def __call__(self, row: Row) -> None:
        """Print one row."""
        if row.conversation != self._conversation:
            self._conversation = row.conversation
            self._console.print(f"\n[bold]conversation: {row.conversation}[/bold]")
            self._console.print(_line(_HEADS) + " why that replica", style="dim", highlight=False, soft_wrap=True)
        cells = (
            str(row.turn),
            row.adapter,
            row.kind,
            row.replica,
            str(row.prompt_tokens),
            str(row.cached_tokens),
            f"{row.ttft_s * 1000:,.0f} ms",
            row.state,
        )
        self._console.print(
            f"{_line(cells)} {row.reason}",
            style=_COLOURS[row.kind],
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _line(cells: tuple[str, ...]) -> str:
    left = {1, 2, 3, 7}
    parts = [
        cell.ljust(width) if index in left else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, _WIDTHS, strict=True))
    ]
    return " ".join(parts)


def print_summary(
    console: Console, rows: list[Row], *, untrained: Sequence[str], untrained_twins: Sequence[str]
) -> None:
    """Print TTFT by prompt length, tokens not prefilled and time saved, then the judgements.

    Args:
        console: where to.
        rows: the calls.
        untrained: adapters with random weights, whose judgements mean nothing.
        untrained_twins: LoRA twins with random weights.
    """
    found = summary(rows)
    console.print()
    console.print(_ttft_table(list(comparisons(rows))))
    tokens, prompts = found["tokens_not_prefilled"], found["prompt_tokens"]
    for kind, name in (("base", "base model"), ("alora", "aLoRA adapters"), ("lora", "LoRA twins")):
        share = tokens[kind] / prompts[kind] if prompts[kind] else 0.0
        console.print(
            f"{name:>15}: {tokens[kind]:>6,} of {prompts[kind]:>6,} prompt tokens not prefilled ({share:.0%})"
        )
    console.print(
        f"{'time saved':>15}: {found['time_saved_s']:.1f} s of waiting for first tokens, aLoRA against its LoRA twin, "
        "over the calls that both made",
        soft_wrap=True,
    )
    judged = [judgement for judgement in judgements(rows) if judgement.adapter not in untrained]
    if judged:
        print_judgements(console, judged)
    if untrained:
        names = ", ".join(untrained)
        console.print(
            f"Untrained (random weights): {names}. Their costs are real, their judgements are not.", style="dim"
        )
    if untrained_twins:
        console.print(
            f"Random weights stand in for LoRA twins: {', '.join(untrained_twins)}. Their costs are real, and they do "
            "not judge.",
            style="dim",
            soft_wrap=True,
        )


def _ttft_table(found: list[Comparison]) -> Table:
    table = Table(title="TTFT by prompt tokens (medians), LoRA : aLoRA", title_justify="left")
    for head in ("prompt", "aLoRA", "LoRA first", "ratio", "LoRA returning", "ratio"):
        table.add_column(head, justify="right", no_wrap=True)
    for compared in found:
        table.add_row(
            f"{compared.prompt_tokens:,}",
            _ms(compared.alora_s),
            _ms(compared.lora_first_s),
            _times(compared.first_ratio),
            _ms(compared.lora_returning_s),
            _times(compared.returning_ratio),
        )
    return table


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:,.0f} ms"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.1f}x"


def write_json(path: Path, rows: list[Row], facts: dict[str, Any]) -> None:
    """Write the calls, the judgements and the summary.

    Args:
        path: the file; its folder must exist.
        rows: the calls.
        facts: about the run (model, dtype, replicas), added to the summary.
    """
    path.write_text(
        json.dumps(
            {
                "calls": [asdict(row) for row in rows],
                "judgements": [asdict(judgement) for judgement in judgements(rows)],
                "summary": {**summary(rows), **facts},
            },
            indent=2,
        )
    )
