"""``aloraserve train``: its options and messages; trainings themselves are in tests/unit/training."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.training_base import write_base
from typer.testing import CliRunner

from aloraserve_services.cli.main import app

SPEC = """\
name: safety
base: base
invocation: "<|start|>safety\\n"
intrinsic: {output: {form: yes_no}}
data: {train: rows.jsonl, validation: rows.jsonl, duplicates: allow}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    write_base(tmp_path / "base")
    row = {"messages": [{"role": "user", "content": "a cake"}], "completion": "Y"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path / "spec.yaml"


def test_a_check_shows_the_data_and_trains_nothing(spec: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["train", str(spec), "--check", "--state-dir", str(tmp_path / "state")])
    assert done.exit_code == 0, done.output
    assert "in mode appended" in done.output
    # Nothing is cut off where a terminal is narrow.
    assert "…" not in done.output
    assert all(word in done.output for word in ("validation", "before the activation point", "rows with documents cut"))
    assert not Path("safety").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.epoch=2", "'training.epoch=2' names no key; accepted: training.epochs"),
        ("training.accumulation=3", "is not accepted: has accumulation 3, which does not divide batch_size 8"),
        ("training.epochs=-1", "'training.epochs=-1' is not accepted: Input should be greater than 0"),
        ("name=other", "'name=other' names no key"),
    ],
)
def test_a_change_that_is_not_accepted_is_named(spec: Path, change: str, message: str) -> None:
    done = CliRunner().invoke(app, ["train", str(spec), "--check", "--set", change])
    assert done.exit_code == 2
    assert message in done.output


def test_a_fault_of_the_spec_is_an_error_of_settings(spec: Path) -> None:
    spec.write_text(SPEC.replace("base: base", "bas: base"))
    done = CliRunner().invoke(app, ["train", str(spec)])
    assert done.exit_code == 2
    assert "spec.yaml:2 has the unknown key 'bas'" in done.output


def test_without_the_extra_it_is_named(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "peft" else found(name, *rest))
    done = CliRunner().invoke(app, ["train", str(spec)])
    assert done.exit_code == 3
    assert 'training adapters needs peft, not installed here: pip install "aloraserve[train]"' in done.output


def test_the_command_line_starts_without_torch() -> None:
    heavy = {"torch", "transformers", "peft", "aloraserve_services.training.run"}
    code = f"import sys, aloraserve_services.cli.main; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
