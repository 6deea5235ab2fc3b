"""The rank's effect: adapters of several ranks and both kinds from the same data, evaluated on the same rows.

A cell is one kind and one rank. Its adapter lies in a folder of its own with a record beside it; a cell whose record
has the same spec, data and base model is not trained again. All aLoRA cells share the cached prefixes, in training and
evaluation.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from aloraserve.adapters import AdapterReader, AdapterVersion, BaseShape
from aloraserve.adapters.intrinsics import IntrinsicSpec
from aloraserve.errors import TrainingError
from aloraserve.training import TrainingSpec
from aloraserve.training.rank_results import RankCell, RankStudy, TrainedCell
from aloraserve.training.scored_form import ScoredForm
from aloraserve.training.scoring import PRIMARY, scored
from aloraserve.training.spec import MAX_RANK, Kind
from aloraserve_services.training.base_weights import base_digest
from aloraserve_services.training.evaluation import RowChoice, chosen_rows, read_adapter
from aloraserve_services.training.evaluation_facts import facts_of
from aloraserve_services.training.progress import TrainingProgress
from aloraserve_services.training.reference_arms import (
    adapter_arm,
    base_arms,
    constant_arm,
    instruction_of,
    reference_answers,
)
from aloraserve_services.training.run import PreparedTraining, train

NAMES: dict[Kind, str] = {"alora": "aLoRA", "lora": "LoRA"}


@dataclass(frozen=True, slots=True)
class Cell:
    """A kind and a rank, before it is trained.

    Args:
        kind: of the adapter.
        rank: of its update.
        spec: of its training.
        folder: that its adapter is written to.
    """

    kind: Kind
    rank: int
    spec: TrainingSpec
    folder: Path

    @property
    def record(self) -> Path:
        """The file that says how it was trained."""
        return self.folder.with_suffix(".json")

    @classmethod
    def of(cls, spec: TrainingSpec, kind: Kind, rank: int, folder: Path) -> Cell:
        """Return a cell of a study: alpha and the loop's settings are those of the spec's kind, whatever the rank.

        Args:
            spec: of an aLoRA.
            kind: of the cell.
            rank: of the cell.
            folder: of the study.
        """
        whole = spec if kind == "alora" else spec.twin()
        changed = whole.model_copy(update={"lora": whole.lora.model_copy(update={"rank": rank})})
        return cls(kind, rank, changed, folder / f"{kind}-r{rank}")


def study_ranks(
    prepared: PreparedTraining,
    cells: Sequence[Cell],
    choice: RowChoice,
    *,
    state_dir: Path,
    progress: TrainingProgress,
) -> RankStudy:
    """Train the cells that are not trained yet, and return how well all of them do.

    Args:
        prepared: spec of an aLoRA, data and base model.
        cells: of the study.
        choice: of the rows that are asked about.
        state_dir: where a converted base model and cached prefixes are kept.
        progress: told of each step.

    Raises:
        TrainingError: the data cannot be used, or a training was stopped.
        StartError: the extra ``train`` is not installed.
    """
    rows = chosen_rows(prepared, choice)
    base = f"{base_digest(prepared.base_path)}/{prepared.dtype}"
    trained = [_trained(cell, base, state_dir, progress) for cell in cells]
    spec = prepared.spec.intrinsic_spec() or IntrinsicSpec()
    form = ScoredForm.of(spec)
    reader = AdapterReader(base=BaseShape.read(prepared.base_path), max_rank=MAX_RANK)
    versions = {cell.folder.name: read_adapter(reader, cell.folder, cell.kind, form, "the cell") for cell in cells}
    arms = base_arms(spec, instruction_of(prepared.spec, spec, form))
    arms += [
        adapter_arm(f"{NAMES[cell.kind]}, rank {cell.rank}", cell.kind, cell.folder.name, versions[cell.folder.name])
        for cell in cells
    ]
    answers = [constant_arm(form, rows, prepared.data.splits["train"].rows)]
    answers += reference_answers(prepared, versions, arms, rows, form, progress)
    scores = [scored(form, arm, seed=choice.seed) for arm in answers]
    levels, of_cells = scores[: -len(cells)], scores[-len(cells) :]
    return RankStudy(
        task=prepared.spec.name,
        primary=PRIMARY[form.kind],
        split=choice.split,
        items=len(rows),
        cells=tuple(
            RankCell(
                kind=cell.kind,
                rank=cell.rank,
                parameters=_parameters(versions[cell.folder.name]),
                trained=record,
                arm=arm,
            )
            for cell, record, arm in zip(cells, trained, of_cells, strict=True)
        ),
        levels=tuple(levels),
        facts=facts_of(prepared, choice, len(rows)),
    )


def _trained(cell: Cell, base: str, state_dir: Path, progress: TrainingProgress) -> TrainedCell:
    digest = hashlib.sha256(f"{cell.spec.digest()}/{base}".encode()).hexdigest()
    known = _record(cell)
    if known is not None and known.digest == digest and cell.folder.is_dir():
        progress.note(f"{cell.folder.name} is trained already")
        return known
    cell.record.unlink(missing_ok=True)
    progress.note(f"trains {cell.folder.name}")
    started = time.monotonic()
    made = train(cell.spec, cell.folder, state_dir=state_dir, progress=_Cell(progress, cell), replace=True)
    if made.stopped_by:
        raise TrainingError(
            f"the training of {cell.folder.name} was stopped by {made.stopped_by}; start again to go on"
        )
    loss = made.results.get("validation", {}).get("loss", float("nan"))
    record = TrainedCell(digest=digest, seconds=time.monotonic() - started, validation_loss=loss, steps=made.steps)
    cell.record.write_text(record.model_dump_json(indent=1) + "\n")
    return record


def _record(cell: Cell) -> TrainedCell | None:
    try:
        return TrainedCell.model_validate_json(cell.record.read_bytes())
    except (OSError, ValidationError):
        return None


def _parameters(version: AdapterVersion) -> int:
    from safetensors import safe_open

    with safe_open(version.path / "adapter_model.safetensors", framework="numpy") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    return sum(rows * columns for rows, columns in shapes)


class _Cell:
    """Progress whose phases have the cell's name before them."""

    def __init__(self, progress: TrainingProgress, cell: Cell) -> None:
        self._progress = progress
        self._name = cell.folder.name

    def note(self, text: str) -> None:
        """Take a sentence about what happens."""
        self._progress.note(f"{self._name}: {text}")

    def advance(self, phase: str, done: int, total: int, loss: float | None = None) -> None:
        """Take how far a phase is."""
        self._progress.advance(f"{self._name}: {phase}", done, total, loss)
