"""The trained adapters that come with the project: small, loaded by PEFT, and better than a guess."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.model import smollm2

from aloraserve.adapters import BaseShape
from aloraserve.adapters.checks import check_adapter
from aloraserve.training import TrainingSpec
from aloraserve_services.intrinsics.builders import INTRINSICS, build_rows, write_rows
from aloraserve_services.intrinsics.row import Part

FOLDERS = sorted(
    path.parent
    for path in (Path(__file__).parents[3] / "services/aloraserve_services/models/trained").glob(
        "*/*/adapter_config.json"
    )
)
MAX_BYTES = 12_000_000
ROWS = 24


def test_they_are_small() -> None:
    assert FOLDERS
    assert sum(path.stat().st_size for folder in FOLDERS for path in folder.iterdir()) < MAX_BYTES


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_they_are_what_their_spec_says(folder: Path, model_path: Path) -> None:
    assert not check_adapter(folder, base=BaseShape.read(model_path), max_rank=256).problems
    sidecar = json.loads((folder / "aloraserve.json").read_text())
    assert "untrained" not in sidecar
    name = folder.name.removesuffix("-lora")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["alora_invocation_tokens"] is None) is (name != folder.name)
    card = (folder / "README.md").read_text()
    assert "license: Apache-2.0" in card
    assert "95 %" in card
    io_yaml = INTRINSICS[name].io_yaml
    if io_yaml is not None:
        assert (folder / "io.yaml").read_text() == io_yaml


@pytest.mark.parametrize("name", ["safety", "hallucination"])
def test_they_are_better_than_a_guess(name: str, tmp_path: Path, state_dir: Path) -> None:
    """Half of the rows are the one, half the other; the held-out test has what no training row was made of."""
    from aloraserve_services.training.evaluation import EvaluationRequest, evaluate
    from aloraserve_services.training.progress import Silence
    from aloraserve_services.training.run import prepare_training

    smollm2(state_dir, "bfloat16")
    rows = {part: made[:ROWS] for part, made in build_rows(INTRINSICS[name]).items()}
    rows[Part.TEST].sort(key=lambda row: sum(map(len, row.documents)) + sum(len(text) for _, text in row.messages))
    write_rows(INTRINSICS[name], rows, tmp_path / name)
    prepared = prepare_training(TrainingSpec.read(tmp_path / name / f"{name}.yaml"), state_dir)
    folder = next(folder for folder in FOLDERS if folder.name == name)
    report = evaluate(EvaluationRequest(prepared, folder), Silence())
    [alora] = [arm for arm in report.arms if arm.role == "alora"]
    assert sum(item.label == item.truth for item in alora.items) >= 0.7 * ROWS
