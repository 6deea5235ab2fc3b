"""The trained adapters that come with the project: small, loaded by PEFT, and better than a guess."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.model import smollm2

from aloraserve.adapters import BaseShape
from aloraserve.adapters.checks import check_adapter
from aloraserve.training import TrainingSpec
from aloraserve_services.intrinsics.builders import INTRINSICS, build_rows, write_rows
from aloraserve_services.intrinsics.results_table import twin_remark
from aloraserve_services.intrinsics.row import Part
from aloraserve_services.intrinsics.train_demo import built_spec

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


@pytest.fixture(scope="module")
def spec_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TrainingSpec]:
    """Make the spec of an adapter by name, with rows that are built again; once for it and its twin."""
    build = functools.cache(lambda name: built_spec(name, tmp_path_factory.mktemp("rows")))

    def spec(name: str) -> TrainingSpec:
        own: TrainingSpec = build(name.removesuffix("-lora"))
        return own.twin() if name.endswith("-lora") else own

    return spec


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_they_were_trained_on_what_the_builders_make(folder: Path, spec_of: Callable[[str], TrainingSpec]) -> None:
    spec, card = spec_of(folder.name), (folder / "README.md").read_text()
    assert f"| spec and data | SHA-256 {spec.digest()} |" in card
    assert all(f"- {source}\n" in card for source in spec.sources)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_a_card_with_figures_of_both_kinds_says_how_long_each_was_trained(
    folder: Path, spec_of: Callable[[str], TrainingSpec]
) -> None:
    first, *_ = (folder / "README.md").read_text().partition("## Results\n\n")[2].splitlines()
    remark = twin_remark(spec_of(folder.name.removesuffix("-lora")))
    assert "had 3 passes over the rows and the aLoRA 6" in remark or folder.name not in ("safety", "safety-lora")
    has_both = "| LoRA |" in (folder / "README.md").read_text()
    assert (first == remark) is (has_both and bool(remark))


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
