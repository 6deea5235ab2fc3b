"""Results of an evaluation: each item's answer, each arm's figures, how they compare, and where serving differs.

A report is written as JSON and read again without loss; figures that have no value are written as ``"NaN"``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aloraserve.errors import TrainingError
from aloraserve.training.bootstrap import Estimate
from aloraserve.training.calibration import ReliabilityBin
from aloraserve.training.scored_form import FormKind

FORMAT = 1
RESULTS_FILE = "results.json"

Role = Literal["majority", "base", "told", "alora", "lora", "compared"]
Through = Literal["rule", "peft", "platform"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class ItemResult(_Part):
    """One arm's answer to one row.

    Args:
        file: that the row stands in, as the spec names it.
        line: of the file.
        truth: the true label, or the reference text.
        text: the answer; None if there was none.
        label: that it is; None if it is none.
        probability: that it says of what the intrinsic asks; None for forms without.
        margins: of each token of the answer with its text: how much likelier it was than the next best that the form
            allowed, in nats. Through PEFT alone.
        error: why there is no answer; empty if there is one.
    """

    file: str
    line: int
    truth: str
    text: str | None
    label: str | None
    probability: float | None = None
    margins: tuple[tuple[str, float], ...] = ()
    error: str = ""


class ArmResult(_Part):
    """One way to answer all items.

    Args:
        name: of it, in tables.
        role: that it has in the comparison.
        through: what answered.
        items: in the order of the rows, the same in every arm.
        figures: by name, each with its interval.
        unsaid: items without a probability, which Brier score, calibration error and reliability leave out; 0 for forms
            without.
        confusion: true labels (rows) by answered ones (columns; the last: no label); empty for texts.
        reliability: bins of said probabilities; empty for forms without.
        facts: such as rank, invocation and digest of the adapter.
    """

    name: str
    role: Role
    through: Through
    items: tuple[ItemResult, ...]
    figures: Mapping[str, Estimate]
    unsaid: Annotated[int, Field(ge=0)] = 0
    confusion: tuple[tuple[int, ...], ...] = ()
    reliability: tuple[ReliabilityBin, ...] = ()
    facts: Mapping[str, str] = Field(default_factory=dict)


class Comparison(_Part):
    """A figure of one arm less another's, on the same items.

    Args:
        name: what is compared, in words.
        figure: its name.
        estimate: the difference, or a ratio of gains.
        is_ratio: whether it is that.
    """

    name: str
    figure: str
    estimate: Estimate
    is_ratio: bool = False


class Disagreement(_Part):
    """An item that PEFT and the platform answer differently.

    Args:
        file: of its row.
        line: of its row.
        peft: PEFT's answer.
        served: the platform's; None if it failed.
        margin: how much likelier PEFT's token was where they part, in nats; None if that is not known.
        is_near_tie: whether that is less than the arithmetic can decide.
    """

    file: str
    line: int
    peft: str | None
    served: str | None
    margin: float | None
    is_near_tie: bool


class Agreement(_Part):
    """Agreement of the platform's answers with PEFT's.

    Args:
        arm: that was served.
        items: that both answered or should have.
        differing: all that differ, near ties included.
        tolerance: the margin, in nats, below which a difference is a near tie.
        probability_gap: the largest difference of probabilities among equal answers; None without any.
    """

    arm: str
    items: int
    differing: tuple[Disagreement, ...]
    tolerance: float
    probability_gap: float | None = None

    @property
    def near_ties(self) -> int:
        """The number of those that arithmetic explains."""
        return len(self.differing) - len(self.disagreements)

    @property
    def disagreements(self) -> list[Disagreement]:
        """Those that arithmetic does not explain."""
        return [differing for differing in self.differing if not differing.is_near_tie]


class EvaluationReport(_Part):
    """An evaluation of one intrinsic.

    Args:
        task: the adapter's name in the spec.
        kind: of its answers.
        labels: of the form; empty for texts.
        primary: name of the figure that decides.
        split: that was evaluated.
        arms: in the order of the tables.
        comparisons: of arms.
        agreements: of serving with PEFT.
        facts: such as model, machine, seeds and versions.
        format: of this record.
    """

    task: str
    kind: FormKind
    labels: tuple[str, ...]
    primary: str
    split: str
    arms: tuple[ArmResult, ...]
    comparisons: tuple[Comparison, ...] = ()
    agreements: tuple[Agreement, ...] = ()
    facts: Mapping[str, str] = Field(default_factory=dict)
    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)] = FORMAT

    @property
    def items(self) -> int:
        """The number of items."""
        return len(self.arms[0].items) if self.arms else 0

    def arm(self, role: Role, through: Through = "peft") -> ArmResult | None:
        """Return the arm with a role, None if there is none."""
        return next((arm for arm in self.arms if (arm.role, arm.through) == (role, through)), None)

    def write(self, path: Path) -> None:
        """Write the report as JSON.

        Raises:
            OSError: it cannot be written.
        """
        path.write_text(self.model_dump_json(indent=1) + "\n", "utf-8")

    @classmethod
    def read(cls, path: Path) -> EvaluationReport:
        """Return a report that :meth:`write` wrote.

        Raises:
            TrainingError: it cannot be read, or is none.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise TrainingError(f"{path.name} cannot be read: {error.strerror}") from None
        except ValidationError as error:
            raise TrainingError(
                f"{path.name} is not the result of an evaluation: {_first(error.errors()[0])}"
            ) from None


def _first(problem: Any) -> str:
    place = ".".join(map(str, problem["loc"]))
    return f"{place or 'content'}: {problem['msg']}"
