"""``make train-demo``: builds the rows of the intrinsics that ship, trains each and its LoRA twin, evaluates them, and
writes their folders. What is done already is left; a training that was ended goes on.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from aloraserve.errors import AloraserveError
from aloraserve.settings import load_settings
from aloraserve.training import TrainingSpec
from aloraserve.training.results import EvaluationReport
from aloraserve_services.cli.training_progress import TrainingBars
from aloraserve_services.intrinsics.builders import INTRINSICS, build_rows, write_rows
from aloraserve_services.intrinsics.results_table import with_results
from aloraserve_services.training.evaluation import EvaluationRequest, evaluate
from aloraserve_services.training.progress import TrainingProgress
from aloraserve_services.training.run import prepare_training, train
from aloraserve_services.training.run_folder import RunFolder

SHIPPED = ("safety", "hallucination", "uncertainty")
PACKAGED = Path(__file__).parents[1] / "models" / "trained" / "smollm2-135m-instruct"
KEPT = ("adapter_config.json", "adapter_model.safetensors", "aloraserve.json", "io.yaml", "README.md")
RESULTS_FILE = "results.json"


def train_demo(names: Sequence[str], work: Path, out: Path, state_dir: Path, progress: TrainingProgress) -> None:
    """Train, evaluate and write intrinsics with their twins.

    Args:
        names: of the intrinsics.
        work: where rows and trainings are kept, to go on with.
        out: a folder per adapter is written here.
        state_dir: where the base model and cached prefixes are kept.
        progress: that is told of.
    """
    for name in names:
        data = work / name
        if not data.exists():
            write_rows(INTRINSICS[name], build_rows(INTRINSICS[name]), data)
        spec = TrainingSpec.read(data / f"{name}.yaml")
        folders = [_trained(one, work / "adapters", state_dir, progress) for one in (spec, spec.twin())]
        report = evaluated(spec, folders, state_dir, progress)
        report.write(work / f"{name}-{RESULTS_FILE}")
        for folder in folders:
            package(folder, out / folder.name, report)


def evaluated(
    spec: TrainingSpec, folders: Sequence[Path], state_dir: Path, progress: TrainingProgress
) -> EvaluationReport:
    """Return how an adapter and, if there are two folders, its twin do on the test's rows."""
    prepared = prepare_training(spec, state_dir)
    twin = folders[1] if len(folders) > 1 else None
    return evaluate(EvaluationRequest(prepared, folders[0], twin), progress)


def package(source: Path, target: Path, report: EvaluationReport) -> None:
    """Copy what ships of a trained adapter, its results in its card."""
    target.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
    card = target / "README.md"
    card.write_text(with_results(card.read_text("utf-8"), report), encoding="utf-8")


def _trained(spec: TrainingSpec, folder: Path, state_dir: Path, progress: TrainingProgress) -> Path:
    made = folder / spec.name
    if not made.exists():
        train(spec, made, state_dir=state_dir, progress=progress, resume=RunFolder(made).has_begun)
    return made


def main() -> int:
    """Run from a command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=SHIPPED, help=f"of intrinsics; {', '.join(SHIPPED)} by default")
    parser.add_argument("--out", type=Path, default=PACKAGED, help="folder of the adapters; the package's by default")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in INTRINSICS]
    if unknown:
        parser.error(f"{unknown[0]!r} is not an intrinsic; {', '.join(INTRINSICS)} are")
    state_dir = load_settings().state_dir
    try:
        with TrainingBars() as progress:
            train_demo(options.names, state_dir / "train-demo", options.out, state_dir, progress)
    except AloraserveError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
