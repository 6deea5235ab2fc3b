from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from aloraserve.scaling.base import LoadEstimate, Reason, ScalingDecision
from aloraserve.scaling.board import ScalingRecord
from aloraserve.scaling.memory import MemoryBoard
from aloraserve.settings import Settings
from aloraserve_services.cli.scaling_report import REASONS, show_scaling
from aloraserve_services.gateway.scaling import ScalingReporter

SETTINGS = Settings(autoscaling=True, max_replicas=6)


def shown(report: dict[str, Any]) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    show_scaling(console, report)
    return console.export_text()


async def reported(*records: ScalingRecord, settings: Settings = SETTINGS) -> dict[str, Any]:
    board = MemoryBoard()
    for record in records:
        await board.record(record, is_change=True)
    return await ScalingReporter(settings, board).report()


def record(estimate: LoadEstimate, **facts: Any) -> ScalingRecord:
    decision = ScalingDecision(3, Reason.BACKLOG, 4, estimate, ("r-1",))
    return ScalingRecord(1_790_000_000.0, decision, 4, 1, ("r-9",), 2, ("engine-7",), **facts)


async def test_a_decision_is_shown_with_its_numbers_and_who_was_stopped() -> None:
    text = shown(await reported(record(LoadEstimate(calls_per_s=2.5, ttft_s=0.25, start_s=40.0))))
    for part in (
        "1 to 6 replicas",
        "target 3: for calls that wait, with their answers; the load needs 4",
        "2.5 calls",
        "TTFT 250 ms",
    ):
        assert part in text
    assert "4 running, 1 starting, 1 leaving; 2 gateways report" in text
    assert "engine-7" in text
    assert "2026-" in text


async def test_what_was_before_is_the_earlier_target_whatever_runs() -> None:
    """An update has old and new replicas at a time, and those that leave still run."""
    text = shown(await reported(record(LoadEstimate(), before=7), record(LoadEstimate())))
    rows = [line.split("│")[2:4] for line in text.splitlines() if "engine-7" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [["3", "?"], ["3", "7"]]


async def test_a_time_without_end_and_a_ray_that_chooses_itself_are_said() -> None:
    text = shown(await reported(record(LoadEstimate(ttft_s=float("inf")), seam=False)))
    assert "TTFT without end" in text
    assert "Serve stops the newest replicas" in text


async def test_without_autoscaling_there_is_nothing_to_explain() -> None:
    assert "autoscaling is off: 3 replicas" in shown(await reported(settings=Settings(replicas=3)))


async def test_where_nothing_was_decided_that_is_said() -> None:
    assert "nothing was decided in the last minute" in shown(await reported())


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_is_in_words(reason: Reason) -> None:
    assert reason.value in REASONS
