"""Sections as Markdown and as one HTML page that needs nothing else, in light and in dark."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from aloraserve_services.training.report.section import Plot, Section, Table

MARKDOWN_FILE, HTML_FILE = "report.md", "report.html"
_STYLE = (
    ":root{color-scheme:light dark;--line:#8885}"
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem;"
    "color:light-dark(#222,#ddd);background:light-dark(#fff,#161616)}"
    "table{border-collapse:collapse;margin:1rem 0;font-size:13px;display:block;overflow-x:auto}"
    "td,th{padding:.2rem .6rem;border-bottom:1px solid var(--line);text-align:right}"
    "td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}"
)


def write_report(folder: Path, title: str, sections: Sequence[Section]) -> None:
    """Write ``report.md`` with its plots beside it, and ``report.html`` with all in it.

    Args:
        folder: that is there.
        title: of the report.
        sections: of it.

    Raises:
        OSError: a file cannot be written.
    """
    for plot in (plot for section in sections for plot in section.plots):
        (folder / f"{plot.name}.svg").write_text(_standalone(plot), "utf-8")
    (folder / MARKDOWN_FILE).write_text(markdown(title, sections), "utf-8")
    (folder / HTML_FILE).write_text(page(title, sections), "utf-8")


def markdown(title: str, sections: Sequence[Section]) -> str:
    """Return a report as Markdown; plots are files beside it."""
    parts = [f"# {title}"]
    for section in sections:
        parts.append(f"## {section.title}")
        parts += section.paragraphs
        parts += [_markdown_table(table) for table in section.tables]
        parts += [f"![{plot.title}]({plot.name}.svg)" for plot in section.plots]
    return "\n\n".join(parts) + "\n"


def page(title: str, sections: Sequence[Section]) -> str:
    """Return a report as one HTML page."""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        parts += [f"<p>{html.escape(text)}</p>" for text in section.paragraphs]
        parts += [_html_table(table) for table in section.tables]
        parts += [f'<div role="img" aria-label="{html.escape(plot.title)}">{plot.svg}</div>' for plot in section.plots]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
    )
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _markdown_table(table: Table) -> str:
    lines = [table.heads, ["---"] * len(table.heads), *table.rows]
    return "\n".join("| " + " | ".join(_markdown_cell(cell) for cell in line) + " |" for line in lines)


def _markdown_cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(text)}</th>" for text in table.heads)
    lines = []
    for number, row in enumerate(table.rows):
        shades = [0.0, *table.shades[number]] if table.shades else [0.0] * len(row)
        lines.append("".join(_html_cell(text, shade) for text, shade in zip(row, shades, strict=True)))
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _html_cell(text: str, shade: float) -> str:
    style = f' style="background:rgb(27 158 119/{shade:.2f})"' if shade else ""
    return f"<td{style}>{html.escape(text)}</td>"


def _standalone(plot: Plot) -> str:
    """Return a plot as a file of its own, which has the reader's colours and not a page's."""
    style = "<style>:root{color:#222}@media(prefers-color-scheme:dark){:root{color:#ddd}}</style>"
    end = plot.svg.index(">") + 1
    return f"{plot.svg[:end]}{style}{plot.svg[end:]}\n"
