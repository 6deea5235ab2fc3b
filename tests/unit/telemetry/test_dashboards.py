"""The dashboards' files are what their source says, and every query is PromQL over metrics that there are."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import promql_parser
import pytest

OBSERVABILITY = Path(__file__).parents[3] / "deploy" / "observability"
DOCUMENT = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, OBSERVABILITY / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


PANELS, DASHBOARDS = load("panels"), load("dashboards")
QUERIES = [
    pytest.param(query.expr, id=f"{board.uid} {panel.title} {number}")
    for board in PANELS.DASHBOARDS
    for panel in board.panels
    for number, query in enumerate(panel.queries)
]


@pytest.mark.parametrize("board", PANELS.DASHBOARDS, ids=lambda board: str(board.uid))
def test_the_file_is_up_to_date(board: object) -> None:
    name = str(board.uid).removeprefix("aloraserve-")  # type: ignore[attr-defined]
    written = (OBSERVABILITY / "dashboards" / f"{name}.json").read_text("utf-8")
    assert written == DASHBOARDS.render(board), "run: python deploy/observability/dashboards.py"


def test_no_file_is_without_a_source() -> None:
    files = {path.stem for path in (OBSERVABILITY / "dashboards").glob("*.json")}
    assert files == {str(board.uid).removeprefix("aloraserve-") for board in PANELS.DASHBOARDS}


@pytest.mark.parametrize("expr", QUERIES)
def test_a_query_is_promql(expr: str) -> None:
    promql_parser.parse(expr.replace("$__rate_interval", "1m"))


@pytest.mark.parametrize("expr", QUERIES)
def test_a_query_asks_for_documented_metrics(expr: str) -> None:
    known = set(re.findall(r"^\| `(\w+)` \|", DOCUMENT.read_text(), re.MULTILINE))
    for name in re.findall(r"\b(aloraserve_\w+)", expr):
        assert {name, re.sub("_(bucket|count|sum)$", "", name)} & known


def test_titles_are_unique_and_panels_do_not_overlap() -> None:
    for board in PANELS.DASHBOARDS:
        panels = json.loads(DASHBOARDS.render(board))["panels"]
        assert len({panel["title"] for panel in panels}) == len(panels)
        assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
