"""``make bench-savings`` as a command: its exit codes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from aloraserve_services.cli.console import EXIT_SETTINGS
from benchmarks import savings

TARGET = savings.Target("base", "safety", "safety-lora", 32, 2, "float32")
app = typer.Typer()
app.command()(savings.verify_savings)


def one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(("flags", "code"), [((), 1), (("--max-error", "0.3"), 0), (("--max-bias", "1"), 1)])
def test_savings_that_are_reported_wrong_fail_the_check(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: tuple[str, ...], code: int
) -> None:
    monkeypatch.setattr(savings, "fetch", lambda *_, **__: {})
    monkeypatch.setattr(savings.Target, "of", lambda status: TARGET)
    monkeypatch.setattr(savings, "run_verification", lambda *_, **__: ([], savings.Verdict(3, 0.2, 0.0)))
    arguments = ["--url", "http://127.0.0.1:9", "--state-dir", str(tmp_path), *flags]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output


def test_lengths_that_leave_no_room_for_a_turn_are_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--state-dir", str(tmp_path), "--lengths", "8000"])
    assert result.exit_code == EXIT_SETTINGS
    assert "integers from 1 to 7808" in one_line(result.stderr)
