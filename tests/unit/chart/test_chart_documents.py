"""The chart's README and schema follow its values and the platform's settings."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

from support.helm_tools import CHART

WRITER = runpy.run_path(str(CHART.parent / "write_readme.py"))
RENEW = "it is another one now: make chart"


def test_the_readme_is_that_of_the_values() -> None:
    text = (CHART / "values.yaml").read_text()
    assert (CHART / "README.md").read_text() == WRITER["readme"](text), RENEW


def test_the_schema_accepts_the_settings_that_there_are() -> None:
    text = (CHART / "values.schema.json").read_text()
    assert text == WRITER["schema"](text), RENEW


def test_rows_have_path_default_and_meaning() -> None:
    text = "a:\n  # -- Of b\n  b: 1\n  c:\n    - # -- Its name\n      name: x\n# -- Two\n# -- lines\nd: {}\n"
    assert list(WRITER["rows"](text)) == [
        ("a.b", "`1`", "Of b"),
        ("a.c", "", ""),
        ("a.c[].name", '`"x"`', "Its name"),
        ("d", "`{}`", "Two lines"),
    ]


def test_no_value_is_unknown_to_the_schema_whose_kind_is_open() -> None:
    """The schema names every key: a mistyped one is refused."""
    schema = json.loads((CHART / "values.schema.json").read_text())

    def closed(part: dict[str, Any]) -> bool:
        return part.get("additionalProperties") is False

    assert closed(schema)
    sections = [part for name, part in schema["properties"].items() if name != "global" and "properties" in part]
    assert len(sections) >= 25
    assert all(closed(section) for section in sections)


def test_the_chart_s_observability_is_not_a_copy() -> None:
    for name in ("dashboards", "rules"):
        assert (CHART / name).resolve() == Path(__file__).parents[3] / "deploy" / "observability" / name
