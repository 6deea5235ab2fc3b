"""Results for people and for programs: tables, figures beside their targets, JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from aloraserve_services.cli.console import report_written

WIDE = 150
"""Characters of a line."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure and its target.

    Args:
        name: what was measured.
        value: in ``unit``.
        unit: of value and target.
        target: the bound, None where there is none.
        at_least: whether the bound is from below.
    """

    name: str
    value: float
    unit: str
    target: float | None = None
    at_least: bool = False

    @property
    def is_met(self) -> bool | None:
        """Whether the value is within the target, None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


def show_figures(console: Console, title: str, figures: Sequence[Figure]) -> None:
    """Print figures beside their targets."""
    table = make_table(title, ("what", "measured", "target", ""), left=("what", ""), no_wrap=False)
    for figure in figures:
        bound = "-" if figure.target is None else f"{'>=' if figure.at_least else '<='} {figure.target:,g}"
        verdict = {None: "", True: "met", False: "missed"}[figure.is_met]
        decimals = 0 if isinstance(figure.value, int) else 2
        table.add_row(figure.name, f"{figure.value:,.{decimals}f} {figure.unit}".rstrip(), bound, verdict)
    console.print(table)


def figures_json(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """Return figures as plain data, each with its verdict."""
    return [asdict(figure) | {"met": figure.is_met} for figure in figures]


def make_table(
    title: str, heads: Sequence[str], *, left: Sequence[str] = (), no_wrap: bool = True, **style: Any
) -> Table:
    """Return an empty table.

    Args:
        title: above it.
        heads: of the columns.
        left: heads of the columns that are aligned left; the others are aligned right.
        no_wrap: keep each cell on one line.
        style: further arguments of the table.
    """
    table = Table(title=title, title_justify="left", **style)
    for head in heads:
        table.add_column(head, justify="left" if head in left else "right", no_wrap=no_wrap)
    return table


def wide(console: Console) -> Console:
    """Return a console for tables that are wider than the line of a file or a small terminal."""
    return Console(width=max(console.width, WIDE), highlight=False)


def milliseconds(seconds: float) -> str:
    """Return a time for people."""
    return f"{seconds * 1000:,.0f} ms"


def write_json(path: Path | None, content: Any) -> None:
    """Write a result if there is a file for it, and print where."""
    if path is not None:
        path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        report_written(path)
