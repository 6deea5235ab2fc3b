"""The comparison of simulated routers: windows, cells that are kept, and tables of paired figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from aloraserve.engine_model.calibration import load
from aloraserve.errors import SettingsError
from aloraserve.simulation.trace import GeneratedTrace
from benchmarks import simulated_cells
from benchmarks.harness.stats import mean_interval
from benchmarks.simulated_cells import Cell, CellStore, Window, run_cells, windows_of
from benchmarks.simulated_tables import Comparison, Setup, adapters_of, compared, markdown

H100 = load("h100-llama-3.1-8b")
ROWS = GeneratedTrace(document_tokens=2048).rows(41, 0)
CELLS = [Cell(2, "priority", 0.8, window, router) for window in range(2) for router in ("round-robin", "dynamo-blind")]


def short_windows() -> list[Window]:
    return windows_of(ROWS, 2, H100, turns=8)


def cell(router: str, window: int, p90_s: float) -> tuple[Cell, dict[str, float]]:
    names = ("ttft_mean_s", "ttft_p50_s", "ttft_p99_s", "hit_rate", "tpot_mean_s", "tpot_p99_s", "pooled_hit_rate")
    return Cell(8, "fcfs", 0.95, window, router), dict.fromkeys(names, 1.0) | {"ttft_p90_s": p90_s}


def test_windows_are_disjoint_and_begin_at_zero() -> None:
    windows = windows_of(ROWS, 4, H100)
    assert [len(window.rows) for window in windows] == [10] * 4
    assert {window.rows[0].arrival_s for window in windows} == {0.0}
    assert windows[1].rows[3].ids == ROWS[13].ids
    assert windows[1].rows[3].arrival_s == pytest.approx(ROWS[13].arrival_s - ROWS[10].arrival_s)
    assert [len(window.rows) for window in windows_of(ROWS, 4, H100, turns=3)] == [3] * 4
    with pytest.raises(SettingsError, match="41 turns; 30 windows need at least 60"):
        windows_of(ROWS, 30, H100)


def test_cells_that_are_there_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = short_windows()
    store = CellStore(tmp_path, windows)
    first = run_cells(CELLS, windows, store)
    assert list(first) == CELLS
    assert all(figures["calls"] == 8 * 4 for figures in first.values())

    played: list[str] = []
    play = simulated_cells.run_router
    monkeypatch.setattr(simulated_cells, "run_router", lambda name, *rest: (played.append(name), play(name, *rest))[1])
    assert run_cells(CELLS, windows, CellStore(tmp_path, windows)) == first
    assert not played
    store.drop(["round-robin"])
    assert run_cells(CELLS, windows, store) == first, "a run is deterministic"
    assert played == ["round-robin"] * 2


def test_another_trace_has_cells_of_its_own(tmp_path: Path) -> None:
    one, other = short_windows(), windows_of(ROWS[1:], 2, H100, turns=8)
    assert CellStore(tmp_path, one).folder == CellStore(tmp_path, short_windows()).folder
    assert CellStore(tmp_path, one).folder != CellStore(tmp_path, other).folder


def test_differences_are_of_the_same_window() -> None:
    results = dict(
        [cell("expected-ttft", 0, 1.0), cell("expected-ttft", 1, 5.0), cell("sglang", 0, 2.0), cell("sglang", 1, 6.0)]
    )
    (comparison,) = compared(results)
    difference = comparison.difference("sglang", "expected-ttft", "ttft_p90_s")
    assert (difference.middle, difference.low, difference.high) == (1.0, 1.0, 1.0)
    spread = comparison.interval("sglang", "ttft_p90_s")
    assert (spread.middle, spread.low, spread.high) == (4.0, 2.0, 6.0)
    assert comparison.won("expected-ttft", "ttft_p90_s") == 2
    assert comparison.won("sglang", "ttft_p90_s") == 0
    assert comparison.won("sglang", "ttft_p99_s") == 2, "equal figures are won by both"


def test_a_router_that_lacks_a_window_is_left_out() -> None:
    (comparison,) = compared(
        dict([cell("expected-ttft", 0, 1.0), cell("expected-ttft", 1, 5.0), cell("sglang", 0, 2.0)])
    )
    assert list(comparison.routers) == ["expected-ttft"]


def test_tables_name_what_a_router_knows_of_adapters() -> None:
    rows = {"expected-ttft": [cell("", 0, 1.0)[1]], "dynamo": [cell("", 0, 2.5)[1]]}
    text = markdown([Comparison(Setup(8, "fcfs", 0.95), rows)], "expected-ttft")
    assert "### 8 replicas, 95%, fcfs" in text
    assert "| `dynamo` | salted | 1.00 | 1.00 | 2.50 (2.50 to 2.50) |" in text
    assert "+1.50 (+1.50 to +1.50)" in text
    assert [adapters_of(name) for name in ("dynamo-blind", "session-hash", "longest-prefix")] == [
        "blind",
        "not asked",
        "exact",
    ]


def test_a_mean_over_few_windows_has_an_interval_within_their_range() -> None:
    interval = mean_interval([1.0, 2.0, 3.0, 4.0, 10.0])
    assert interval.middle == 4.0
    assert 1.0 < interval.low < 4.0 < interval.high < 10.0
    assert mean_interval([3.0]).low == mean_interval([3.0]).high == 3.0
