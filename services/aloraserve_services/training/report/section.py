"""A report's sections, free of any markup; they are written as Markdown and as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Table:
    """A table; the first column names its rows.

    Args:
        heads: of the columns.
        rows: texts of the cells.
        shades: how dark each cell of a row is, 0 to 1, the first column left out; empty for none.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    shades: Sequence[Sequence[float]] = ()


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot.

    Args:
        name: of its file beside the Markdown, without a suffix.
        title: for people who do not see it.
        svg: of it; its text and lines have the page's colour.
    """

    name: str
    title: str
    svg: str


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a report.

    Args:
        title: of it.
        paragraphs: of text, before the rest.
        tables: of it.
        plots: of it.
    """

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = field(default=())
    plots: Sequence[Plot] = field(default=())
