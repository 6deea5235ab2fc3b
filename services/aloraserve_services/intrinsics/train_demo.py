"""The adapters that ship, made from nothing: rows, trainings of each intrinsic and its LoRA twin, and their figures."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from aloraserve.errors import StartError
from aloraserve.training import TrainingSpec
from aloraserve.training.results import EvaluationReport
from aloraserve_services.intrinsics.builders import BY_HAND, INTRINSICS, build_rows, write_rows
from aloraserve_services.intrinsics.results_table import with_results
from aloraserve_services.training.evaluation import EvaluationRequest, evaluate
from aloraserve_services.training.progress import TrainingProgress
from aloraserve_services.training.run import prepare_training, train
from aloraserve_services.training.run_folder import RunFolder

KEPT = ("adapter_config.json", "adapter_model.safetensors", "aloraserve.json", "io.yaml", "README.md")
RESULTS_FILE = "results.json"


def train_demo(names: Sequence[str], work: Path, out: Path, state_dir: Path, progress: TrainingProgress) -> None:
    """Train, evaluate and write intrinsics, and twins where specs have ``twin_lora``. What is trained already is left.

    Args:
        names: of the intrinsics.
        work: where rows and trainings are kept, to go on with.
        out: a folder per adapter is written here.
        state_dir: where the base model and cached prefixes are kept.
        progress: that is told of.

    Raises:
        AloraserveError: one of them cannot be made, or the training was stopped.
    """
    for name in names:
        spec = built_spec(name, work)
        kinds = (spec, spec.twin()) if "twin_lora" in spec.model_fields_set else (spec,)
        folders = [_trained(kind, work, state_dir, progress) for kind in kinds]
        report = _evaluated(spec, folders, state_dir, progress)
        report.write(work / f"{name}-{RESULTS_FILE}")
        second = second_test(spec)
        by_hand = None if second is None else _evaluated(second, folders, state_dir, progress)
        for folder in folders:
            package(folder, out / folder.name, spec, report, by_hand)


def built_spec(name: str, work: Path) -> TrainingSpec:
    """Build an intrinsic's rows and return its spec. Rows that lie there may be another version's: they are replaced.

    Args:
        name: of the intrinsic.
        work: a folder of its name is written here.
    """
    data = work / name
    shutil.rmtree(data, ignore_errors=True)
    write_rows(INTRINSICS[name], build_rows(INTRINSICS[name]), data)
    return TrainingSpec.read(data / f"{name}.yaml")


def second_test(spec: TrainingSpec) -> TrainingSpec | None:
    """Return a spec whose test is of the rows that were written by hand, None if there are none."""
    if INTRINSICS[spec.name].by_hand is None:
        return None
    return spec.model_copy(update={"data": spec.data.model_copy(update={"test": (BY_HAND,)})})


def trained_folder(spec: TrainingSpec, work: Path) -> Path:
    """Return where an adapter is trained: by its spec and data, so that others are never taken for it."""
    return work / "adapters" / spec.digest()[:16] / spec.name


def package(
    source: Path, target: Path, spec: TrainingSpec, report: EvaluationReport, by_hand: EvaluationReport | None
) -> None:
    """Copy what ships of a trained adapter, its results in its card.

    Args:
        source: as it was trained.
        target: folder to write.
        spec: of the aLoRA.
        report: of its evaluation.
        by_hand: of that of a second test, None if there is none.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
    card = target / "README.md"
    card.write_text(with_results(card.read_text("utf-8"), spec, report, by_hand), encoding="utf-8")


def _evaluated(
    spec: TrainingSpec, folders: Sequence[Path], state_dir: Path, progress: TrainingProgress
) -> EvaluationReport:
    """Return how an adapter, and its twin if there is one, do on the test's rows."""
    adapter, *twins = folders
    twin = twins[0] if twins else None
    return evaluate(EvaluationRequest(prepare_training(spec, state_dir), adapter, twin), progress)


def _trained(spec: TrainingSpec, work: Path, state_dir: Path, progress: TrainingProgress) -> Path:
    made = trained_folder(spec, work)
    is_begun = RunFolder(made).checkpoints.latest is not None
    # One that was stopped has written its best so far, and its checkpoint is still there.
    if is_begun or not made.exists():
        done = train(spec, made, state_dir=state_dir, progress=progress, resume=is_begun)
        if done.stopped_by:
            raise StartError(f"stopped by {done.stopped_by}; the same command goes on with {spec.name}")
    return made
