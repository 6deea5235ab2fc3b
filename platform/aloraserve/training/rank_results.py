"""Results of a rank study: the figures of each kind and rank, beside those that have no rank."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from aloraserve.training.bootstrap import Estimate
from aloraserve.training.results import ArmResult
from aloraserve.training.spec import Kind

STUDY_FILE = "rank-study.json"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class TrainedCell(_Part):
    """A cell's training, as it is kept beside its adapter.

    Args:
        digest: of the spec, data and base model that it was trained from; another one is trained again.
        seconds: that training took.
        validation_loss: of the weights that were kept; NaN if it is not known.
        steps: that were done.
    """

    digest: str
    seconds: float
    validation_loss: float
    steps: int


class RankCell(_Part):
    """One kind of adapter of one rank.

    Args:
        kind: of the adapter.
        rank: of its update.
        parameters: that were trained.
        trained: its training.
        arm: its answers and figures.
    """

    kind: Kind
    rank: int
    parameters: int
    trained: TrainedCell
    arm: ArmResult


class RankStudy(_Part):
    """A study of one intrinsic.

    Args:
        task: the adapter's name in the spec.
        primary: name of the figure that decides.
        split: that was evaluated.
        items: rows of it.
        cells: by kind and rank.
        levels: arms without a rank: the majority class and the base model.
        facts: such as model, machine and versions.
    """

    task: str
    primary: str
    split: str
    items: int
    cells: tuple[RankCell, ...]
    levels: tuple[ArmResult, ...]
    facts: Mapping[str, str] = Field(default_factory=dict)

    def points(self, kind: Kind) -> list[tuple[int, Estimate]]:
        """Return the figure that decides of each rank of a kind."""
        return [(cell.rank, cell.arm.figures[self.primary]) for cell in self.cells if cell.kind == kind]

    def write(self, path: Path) -> None:
        """Write the study as JSON.

        Raises:
            OSError: it cannot be written.
        """
        path.write_text(self.model_dump_json(indent=1) + "\n", "utf-8")
