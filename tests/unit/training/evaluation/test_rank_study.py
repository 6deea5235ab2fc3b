"""``aloraserve rank-study`` on a tiny model: cells are trained once, and evaluated on the same rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from aloraserve.training import TrainingSpec
from aloraserve.training.rank_results import RankStudy
from aloraserve_services.cli.main import app

MakeSpec = Callable[..., TrainingSpec]
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, made_spec: MakeSpec) -> Run:
    def study(*arguments: str) -> Result:
        places = ["--out", str(tmp_path / "study"), "--state-dir", str(tmp_path / "state"), "--split", "validation"]
        return CliRunner().invoke(app, ["rank-study", str(made_spec().path), *places, *arguments])

    return study


def test_cells_are_trained_once_and_answer_the_same_rows(run: Run, tmp_path: Path) -> None:
    first = run("--ranks", "2", "--kinds", "alora")
    assert first.exit_code == 0, first.output
    folder = tmp_path / "study"
    weights = (folder / "alora-r2" / "adapter_model.safetensors").stat()
    again = run("--ranks", "1,2", "--kinds", "alora,lora")
    assert again.exit_code == 0, again.output
    assert "alora-r2 is trained already" in again.output
    assert (folder / "alora-r2" / "adapter_model.safetensors").stat() == weights
    study = RankStudy.model_validate_json((folder / "rank-study.json").read_bytes())
    assert [(cell.kind, cell.rank) for cell in study.cells] == [("alora", 1), ("alora", 2), ("lora", 1), ("lora", 2)]
    assert study.cells[1].parameters == 2 * study.cells[0].parameters == study.cells[3].parameters
    assert [arm.role for arm in study.levels] == ["majority", "base", "told"]
    truths = {tuple(item.truth for item in arm.items) for arm in (*study.levels, *(cell.arm for cell in study.cells))}
    assert len(truths) == 1
    assert [rank for rank, _ in study.points("lora")] == [1, 2]
    assert study.cells[0].trained.validation_loss > 0
    report = (folder / "report.md").read_text()
    assert "| aLoRA, rank 2 |" in report
    assert "![error over rank, aLoRA and LoRA](rank-safety.svg)" in report
    assert (folder / "rank-safety.svg").read_text().count("<svg") == 1


def test_a_cell_of_another_spec_is_trained_again(run: Run, tmp_path: Path) -> None:
    assert run("--ranks", "1", "--kinds", "alora").exit_code == 0
    record = tmp_path / "study" / "alora-r1.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"digest": "of another spec"}))
    again = run("--ranks", "1", "--kinds", "alora")
    assert again.exit_code == 0, again.output
    assert "trains alora-r1" in again.output
    assert json.loads(record.read_text())["digest"] != "of another spec"


def test_a_cell_of_other_base_weights_is_trained_again(run: Run, tmp_path: Path, tiny_base: Path) -> None:
    assert run("--ranks", "1", "--kinds", "alora").exit_code == 0
    [weights] = tiny_base.glob("*.safetensors")
    kept = weights.read_bytes()
    try:
        save_file({name: 1.5 * tensor for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
        again = run("--ranks", "1", "--kinds", "alora")
    finally:
        weights.write_bytes(kept)
    assert again.exit_code == 0, again.output
    assert "trains alora-r1" in again.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ranks", "0"), "--ranks is '0'; integers from 1 to 256"),
        (("--ranks", "1,two"), "--ranks is '1,two'"),
        (("--kinds", "dora"), "--kinds is 'dora'; alora, lora or both"),
        (("--split", "test"), "spec.yaml has no rows in the split 'test'"),
    ],
)
def test_what_cannot_be_studied_is_refused(run: Run, arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    found = run(*arguments)
    assert found.exit_code == 2, found.output
    assert message in found.output
    assert not list((tmp_path / "study").glob("alora-*"))
