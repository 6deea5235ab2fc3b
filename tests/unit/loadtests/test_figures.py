from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.stats import Interval, median_interval
from loadtests import figures, report
from loadtests.plan import LoadPlan, Phase
from loadtests.samples import FIELDS, Sample, Samples


def sample(arm: str, ttft_s: float, variant: str = "0", **given: Any) -> Sample:
    common: dict[str, Any] = {
        "phase": "sync",
        "pipeline": "base-adapter",
        "arm": arm,
        "step": "evaluation",
        "state": "first",
        "length": 500,
        "at_s": 0.0,
        "prompt_tokens": 520,
        "cached_tokens": 0 if arm == "lora" else 512,
        "ttft_s": ttft_s,
        "e2e_s": ttft_s + 0.2,
        "variant": variant,
        "saved_s": 0.9 if arm == "alora" else None,
    }
    return Sample(**common | given)


def pairs(count: int = 5) -> list[Sample]:
    return [
        sample(arm, ttft_s, str(number)) for number in range(count) for arm, ttft_s in (("lora", 1.0), ("alora", 0.1))
    ]


def test_ratios_are_of_calls_with_equal_content() -> None:
    alone = sample("lora", 99.0, "nobody's twin")
    (found,) = figures.ratios([*pairs(), alone, sample("alora", 5.0, "1", error="cut short")])
    assert (found["n"], found["prompt_tokens"]) == (5, 520)
    assert found["ttft"] == {"p50": pytest.approx(10), "low": pytest.approx(10), "high": pytest.approx(10)}
    assert found["e2e"]["p50"] == pytest.approx(4)


def test_an_interval_holds_the_median_and_shows_how_sure_it_is() -> None:
    found = median_interval([1.0, 2.0, 3.0, 4.0, 100.0])
    assert found.low <= 3.0 == found.middle <= found.high
    assert (found.low, found.high) == (1.0, 100.0) or found.high > found.low
    assert median_interval([1.0, 3.0]) == Interval(2.0, 2.0, 2.0)


def test_a_row_says_where_the_time_went() -> None:
    (row,) = figures.rows([sample("alora", 0.25, prefill_s=0.15, itl_s=0.05)])
    parts = [row[f"{part}_p50_s"] for part in ("queue", "prefill", "decode", "itl", "e2e")]
    assert parts == pytest.approx([0.1, 0.15, 0.2, 0.05, 0.45])
    (whole,) = figures.rows([sample("alora", 0.0, step="whole")])
    assert (whole["ttft_p50_s"], whole["decode_p50_s"], whole["e2e_p50_s"]) == (None, None, 0.2)


def test_savings_are_estimated_against_measured_on_the_same_pairs() -> None:
    assert figures.savings(pairs(2)) == {
        "pairs": 2,
        "estimated_s": pytest.approx(1.8),
        "measured_s": pytest.approx(1.8),
    }
    untold = [sample("lora", 1.0), sample("alora", 0.1, saved_s=None)]
    assert figures.savings(untold) == {"pairs": 1, "estimated_s": None, "measured_s": pytest.approx(0.9)}


def test_checks_report_what_was_missed() -> None:
    found = {check["name"]: check["met"] for check in figures.checks(pairs())}
    assert found == {
        "TTFT LoRA (first) : aLoRA at 500 tokens": True,
        "cached share of evaluation calls, alora": True,
        "failed calls": True,
    }
    slow = [sample("lora", 0.5), sample("alora", 0.1, cached_tokens=100), sample("base", 0.1, error="answered 503")]
    assert not any(check["met"] for check in figures.checks(slow))


def test_evictions_of_a_phase_that_fills_the_cache_are_not_a_miss() -> None:
    full = sample("alora", 0.1, phase="overflow-4", cached_tokens=0)
    assert not figures.checks([*pairs(), full])[-2]["met"]
    assert figures.checks([*pairs(), full], {"overflow-4"})[-2]["met"]


def test_rows_have_every_figure_and_failures_apart() -> None:
    (lora, alora) = figures.rows([*pairs(), sample("lora", 0.0, error="answered 429")])[::-1]
    assert (lora["arm"], lora["n"], lora["failed"], lora["ttft_p50_s"]) == ("lora", 5, 1, 1.0)
    assert (alora["arm"], alora["cached_share"]) == ("alora", round(512 / 520, 4))


def test_the_report_is_one_page_and_its_figures_are_json_and_csv(tmp_path: Path) -> None:
    samples = Samples([*pairs(), sample("alora", 0.3, state="returning", error="<b>")])
    plan = LoadPlan((Phase("sync", "sync"),))
    report.write(tmp_path / "out", plan, samples, {"machine": "<script>"})
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg") >= 5
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {"rows", "ratios", "savings", "checks"} <= set(content)
    with (tmp_path / "out" / "samples.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(samples)
    assert set(lines[0]) == set(FIELDS)


def test_an_empty_load_test_has_a_report_too(tmp_path: Path) -> None:
    content = report.write(tmp_path, LoadPlan(()), Samples(), {})
    assert content["rows"] == []
    assert "Nothing of this was measured" in (tmp_path / "report.html").read_text()
