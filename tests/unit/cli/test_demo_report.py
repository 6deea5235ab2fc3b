"""The demo's report: a line a call as it comes, a summary of them all, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from aloraserve_services.cli.demo_figures import summary
from aloraserve_services.cli.demo_judgements import judgements
from aloraserve_services.cli.demo_player import Row
from aloraserve_services.cli.demo_report import RowPrinter, print_summary, write_json

Make = Callable[..., Row]
Printed = Callable[[], list[str]]


@pytest.fixture
def console() -> Console:
    return Console(file=StringIO(), width=100)


@pytest.fixture
def printed(console: Console) -> Printed:
    def lines() -> list[str]:
        assert isinstance(console.file, StringIO)
        return console.file.getvalue().splitlines()

    return lines


def test_a_row_is_printed_as_it_comes(console: Console, printed: Printed, row: Make) -> None:
    show = RowPrinter(console)
    show(row("alora", "safety", 1.2345, turn=3, prompt_tokens=510, cached_tokens=480, reason="holds 480"))
    line = printed()[-1]
    assert line.split() == [
        "3", "safety", "alora", "engine-0", "510", "480", "1,234", "ms", "warm", "holds", "480",
    ]  # fmt: skip


def test_each_conversation_has_one_heading(console: Console, printed: Printed, row: Make) -> None:
    show = RowPrinter(console)
    for conversation in ("ferry", "ferry", "glasshouse"):
        show(row("base", "base", 1.0, conversation=conversation))
    headings = [line for line in printed() if line.startswith("conversation: ")]
    assert headings == ["conversation: ferry", "conversation: glasshouse"]
    assert len([line for line in printed() if line.split()[:2] == ["turn", "adapter"]]) == 2


def test_rows_stand_under_their_heads(console: Console, printed: Printed, row: Make) -> None:
    RowPrinter(console)(row("lora", "uncertainty-lora", 0.5, prompt_tokens=512, cached_tokens=480, state="returning"))
    *_, heads, line = printed()
    for head, cell in (
        ("adapter", "uncertainty-lora"),
        ("kind", "lora "),
        ("replica", "engine-0"),
        ("state", "returning"),
    ):
        assert line.startswith(cell, heads.index(head))
    for head, cell in (("prompt", "512"), ("cached", "480"), ("TTFT", "500 ms")):
        assert heads.index(head) + len(head) == line.index(cell) + len(cell)


def test_a_reason_is_printed_whole_and_as_it_is(console: Console, printed: Printed, row: Make) -> None:
    reason = "engine-0 [bold] holds [480] of 500 tokens, " + "and so on " * 20 + "end"
    RowPrinter(console)(row("base", "base", 1.0, reason=reason))
    assert printed()[-1].endswith(reason)


def test_the_summary_shows_ratios_shares_and_time_saved(console: Console, printed: Printed, rows: list[Row]) -> None:
    print_summary(console, rows, untrained=["safety", "uncertainty"], untrained_twins=[])
    lines = printed()
    figures = [line.split() for line in lines]
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert cells == [
        ["511", "200 ms", "2,100 ms", "10.5x", "-", "-"],
        ["1,000", "200 ms", "4,200 ms", "21.0x", "1,200 ms", "6.0x"],
    ]
    assert ["base", "model:", "32", "of", "800", "prompt", "tokens", "not", "prefilled", "(4%)"] in figures
    assert any("time saved: 3.0 s" in line for line in lines)
    assert any("Untrained (random weights): safety, uncertainty" in line for line in lines)


def test_trained_adapters_have_their_judgements_shown_instead(
    console: Console, printed: Printed, rows: list[Row]
) -> None:
    print_summary(console, rows, untrained=["uncertainty"], untrained_twins=["safety-lora"])
    lines = printed()
    assert any(line.startswith("judgements") for line in lines)
    assert any(line.startswith("Untrained (random weights): uncertainty. ") for line in lines)
    assert any(line.startswith("Random weights stand in for LoRA twins: safety-lora. ") for line in lines)


def test_a_summary_of_nothing_can_be_printed(console: Console, printed: Printed) -> None:
    print_summary(console, [], untrained=[], untrained_twins=[])
    assert any("0 of      0 prompt tokens not prefilled (0%)" in line for line in printed())


def test_the_json_file_has_every_call_and_the_summary_with_the_run_s_facts(tmp_path: Path, rows: list[Row]) -> None:
    write_json(tmp_path / "demo.json", rows, {"model": "smollm2", "replicas": 2})
    content = json.loads((tmp_path / "demo.json").read_text())
    assert content["calls"] == [asdict(row) for row in rows]
    assert content["judgements"] == [asdict(judgement) for judgement in judgements(rows)]
    assert content["summary"] == {**summary(rows), "model": "smollm2", "replicas": 2}


def test_the_json_file_replaces_an_older_one(tmp_path: Path, rows: list[Row]) -> None:
    for count in (len(rows), 1):
        write_json(tmp_path / "demo.json", rows[:count], {})
    assert len(json.loads((tmp_path / "demo.json").read_text())["calls"]) == 1
