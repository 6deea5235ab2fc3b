"""Comparisons: figures over seeds, the picture, and the same result from any number of processes."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from aloraserve.engine_model.calibration import load
from aloraserve.errors import SettingsError
from aloraserve.simulation.plot import draw, write_plot
from aloraserve.simulation.router_names import chosen_names, router_names
from aloraserve.simulation.study import PolicyFigures, StudyProgress, StudySettings, parse_seeds, run_study
from aloraserve.simulation.summary import over_seeds, percentile
from aloraserve.simulation.workload import WorkloadSettings

SETTINGS = StudySettings(
    policies=("session-hash", "round-robin"),
    calibration=load("h100-llama-3.1-8b"),
    requests=25,
    replicas=2,
    workload=WorkloadSettings(block_tokens=512),
    load=0.5,
    seeds=(3, 4),
)


def test_a_study_compares_on_the_same_calls() -> None:
    told: list[StudyProgress] = []
    figures = run_study(SETTINGS, on_progress=told.append, processes=1)
    assert [one.policy for one in figures] == ["session-hash", "round-robin"]
    first, second = (one.to_json() for one in figures)
    for name in ("calls", "rate_scale", "oracle_hit_rate", "pooled_hit_rate"):
        assert first[name] == second[name]
    assert first["seeds"] == 2
    assert first["intervals"]["ttft_p90_s"] > 0
    assert len(first["runs"]) == 2
    shares = [one.share for one in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_processes_change_nothing() -> None:
    alone, shared = run_study(SETTINGS, processes=1), run_study(SETTINGS, processes=2)
    assert [one.to_json() for one in alone] == [one.to_json() for one in shared]


def test_intervals_are_students() -> None:
    means, halves = over_seeds([{"x": 1.0}, {"x": 2.0}, {"x": 3.0}])
    assert means["x"] == 2.0
    assert halves["x"] == pytest.approx(4.303 * 1.0 / 3**0.5)
    assert over_seeds([{"x": 1.0}]) == ({"x": 1.0}, {})


def test_a_figure_that_a_run_does_not_have_is_null_in_json() -> None:
    runs = [{"cold_ttft_p90_s": 1.0}, {"cold_ttft_p90_s": math.nan}]
    content = PolicyFigures("any", *over_seeds(runs), runs).to_json()
    assert content["cold_ttft_p90_s"] is content["intervals"]["cold_ttft_p90_s"] is None
    assert content["runs"] == [{"cold_ttft_p90_s": 1.0}, {"cold_ttft_p90_s": None}]


def test_a_percentile_is_a_value_that_occurred() -> None:
    values = [float(n) for n in range(1, 11)]
    assert [percentile(values, share) for share in (0.5, 0.9, 0.99)] == [5.0, 9.0, 10.0]
    assert percentile([7.0], 0.5) == 7.0


def test_the_picture_is_an_svg_with_every_router(tmp_path: Path) -> None:
    figures = run_study(SETTINGS, processes=1)
    svg = draw(figures, "a & b")
    assert ET.fromstring(svg).tag.endswith("svg")
    for one in figures:
        assert one.policy in svg
    write_plot(tmp_path / "plot.html", figures, "a & b")
    assert "a &amp; b" in (tmp_path / "plot.html").read_text()


def test_policies_are_chosen_by_name() -> None:
    assert chosen_names(["all"]) == router_names()
    assert chosen_names(["round-robin, sglang", "round-robin"]) == ["round-robin", "sglang"]
    with pytest.raises(SettingsError, match="policy is 'fastest'; all or some of expected-ttft, "):
        chosen_names(["fastest"])
    with pytest.raises(SettingsError, match="no policy is given"):
        chosen_names([","])


def test_wrong_settings_are_named() -> None:
    with pytest.raises(SettingsError, match="seeds is 0"):
        parse_seeds(0, 0)
    with pytest.raises(SettingsError, match="requests is 0"):
        StudySettings(policies=("round-robin",), calibration=SETTINGS.calibration, requests=0)
