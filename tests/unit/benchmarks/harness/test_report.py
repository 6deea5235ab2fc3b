"""Figures beside their targets, as tables and as JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.harness.report import Figure, figures_json, show_figures, write_json

FIGURES = [
    Figure("lookup", 0.5, "ms", 0.8),
    Figure("ingest", 40_000.0, "blocks/s", 50_000, at_least=True),
    Figure("server", 0.1, "ms"),
]


@pytest.mark.parametrize(("value", "at_least", "is_met"), [(1.0, False, True), (1.1, False, False), (1.0, True, True)])
def test_a_bound_includes_its_limit(value: float, at_least: bool, is_met: bool) -> None:
    assert Figure("f", value, "ms", 1.0, at_least).is_met is is_met


def test_a_table_shows_each_figure_with_its_target_and_verdict() -> None:
    text = io.StringIO()
    show_figures(Console(file=text, width=100), "directory", FIGURES)
    rows = [" ".join(line.replace("│", " ").split()) for line in text.getvalue().splitlines()]
    assert "lookup 0.50 ms <= 0.8 met" in rows
    assert "ingest 40,000.00 blocks/s >= 50,000 missed" in rows
    assert "server 0.10 ms -" in rows


def test_json_has_the_verdicts_and_is_written_only_if_there_is_a_file(tmp_path: Path) -> None:
    write_json(None, figures_json(FIGURES))
    write_json(tmp_path / "figures.json", figures_json(FIGURES))
    assert [figure["met"] for figure in json.loads((tmp_path / "figures.json").read_text())] == [True, False, None]
