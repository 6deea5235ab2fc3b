"""From answers to a report that is written and read again: figures, comparisons, agreement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from aloraserve.errors import TrainingError
from aloraserve.training.agreement import agreement, parting_margin
from aloraserve.training.results import ArmResult, EvaluationReport, ItemResult, Role, Through
from aloraserve.training.scored_form import ScoredForm
from aloraserve.training.scoring import ArmAnswers, compared, scored

YES_NO = ScoredForm("choice", ("Y", "N"), (1.0, 0.0))
DIGIT = ScoredForm("digit", tuple("0123456789"), tuple((5 + 10 * digit) / 100 for digit in range(10)))
TEXT = ScoredForm("text")


def item(
    form: ScoredForm, truth: str, text: str | None, probability: float | None = None, **more: object
) -> ItemResult:
    found = ItemResult(
        file="rows.jsonl", line=1, truth=truth, text=text, label=form.label(text), probability=probability
    )
    return found.model_copy(update=more)


def arm(form: ScoredForm, items: Sequence[ItemResult], role: Role = "alora", through: Through = "peft") -> ArmResult:
    return scored(form, ArmAnswers(f"{role} {through}", role, through, items, {"rank": "4"}))


def yes_no(truth: str, answers: str, role: Role, through: Through = "peft") -> ArmResult:
    pairs = zip(truth, answers, strict=True)
    items = [item(YES_NO, true, answer, 0.9 if answer == "Y" else 0.2) for true, answer in pairs]
    return arm(YES_NO, items, role, through)


def test_a_choice_has_error_f1_confusion_and_calibration() -> None:
    found = yes_no("YYNN", "YNNN", "alora")
    figures = {name: round(one.value, 4) for name, one in found.figures.items()}
    assert figures == {"error": 0.25, "macro_f1": 0.7333, "f1": 0.6667, "brier": 0.1825, "ece": 0.125}
    assert found.confusion == ((1, 1, 0), (0, 2, 0))
    assert [one.items for one in found.reliability] == [0, 0, 3, 0, 0, 0, 0, 0, 0, 1]


def test_a_digit_has_its_distance_and_what_is_none_is_the_farthest() -> None:
    found = arm(DIGIT, [item(DIGIT, "3", "5", 0.55), item(DIGIT, "9", None, error="gone")])
    assert found.figures["mae"].value == (2 + 9) / 2
    # Brier score and calibration are of the answers that say a probability; the others are counted.
    assert (found.unsaid, found.figures["brier"].items, sum(one.items for one in found.reliability)) == (1, 1, 1)
    assert found.figures["brier"].value == pytest.approx((0.35 - 0.55) ** 2)
    assert found.confusion[9][10] == 1


def test_without_any_probability_there_is_no_calibration() -> None:
    found = arm(YES_NO, [item(YES_NO, "Y", "Y"), item(YES_NO, "N", None)])
    assert (found.unsaid, "brier" in found.figures, found.reliability) == (2, False, ())
    assert arm(TEXT, [item(TEXT, "one", "two")]).unsaid == 0


def test_a_text_has_its_overlap() -> None:
    found = arm(TEXT, [item(TEXT, "ferry to Elba", "the ferry to Elba"), item(TEXT, "one", "two")])
    assert {name: one.value for name, one in found.figures.items()} == {"error": 1.0, "rouge_l": 0.5, "token_f1": 0.5}
    assert found.confusion == ()


def test_arms_compare_on_the_same_items() -> None:
    truth = "YN" * 50
    arms = [
        yes_no(truth, "Y" * 100, "majority", "rule"),
        yes_no(truth, "Y" * 20 + truth[20:], "told"),
        yes_no(truth, truth, "alora"),
        yes_no(truth, truth, "alora", "platform"),
        yes_no(truth, "N" + truth[1:], "lora"),
    ]
    found = {one.name: one.estimate for one in compared(YES_NO, arms)}
    assert found["aLoRA less the majority class"].value == -0.5
    assert found["aLoRA less the majority class"].high < -0.3
    assert found["aLoRA less LoRA"].value == pytest.approx(-0.01)
    assert found["aLoRA served less aLoRA through PEFT"].high == 0
    assert found["gain ratio of aLoRA: (served - told) / (PEFT - told)"].value == 1
    assert not any("not told" in name or "compared" in name for name in found)


def test_digits_compare_by_their_probabilities_too() -> None:
    """Of a flat distribution the most probable digit may be far off where the mean is near."""
    arms = [
        arm(DIGIT, [item(DIGIT, "4", "9", 0.5), item(DIGIT, "6", "0", 0.6)], "alora"),
        arm(DIGIT, [item(DIGIT, "4", "5", 0.55), item(DIGIT, "6", "5", 0.55)], "majority", "rule"),
    ]
    assert arms[0].figures["mae"].value == 5.5
    assert arms[0].figures["said_mae"].value == pytest.approx((0.5 + 0.5) / 2)
    found = {one.name: one for one in compared(DIGIT, arms)}
    assert found["aLoRA less the majority class"].estimate.value == 4.5
    said = found["aLoRA less the majority class, by the probabilities"]
    assert (said.figure, said.estimate.value) == ("said_mae", pytest.approx(0.5 - 1.0))


def test_a_near_tie_is_told_from_a_disagreement() -> None:
    margins = (("Y", 0.0004), ("", 3.0)), (("N", 1.5), ("", 3.0)), (("Y", 2.0), ("", 3.0)), (("N", 2.0), ("", 3.0))
    peft = arm(YES_NO, [item(YES_NO, "Y", one[0][0], 0.5, margins=one) for one in margins])
    answers = ("N", "Y", "Y", None)
    items = [item(YES_NO, "Y", one, 0.4, error="" if one else "too slow") for one in answers]
    found = agreement(peft, arm(YES_NO, items, "alora", "platform"), "float32")
    assert [(one.served, one.margin, one.is_near_tie) for one in found.differing] == [
        ("N", 0.0004, True),
        ("Y", 1.5, False),
        (None, None, False),
    ]
    assert (found.items, len(found.disagreements), found.near_ties) == (4, 2, 1)
    assert found.probability_gap == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("other", "margin"),
    [("a cat", 2.0), ("a dog sat", 4.0), ("a dog", 4.0), ("the dog", 1.0), ("", 1.0)],
)
def test_the_margin_is_that_of_the_token_where_texts_part(other: str, margin: float) -> None:
    margins = [("a", 1.0), (" dog", 2.0), (" ran", 4.0), ("", 8.0)]
    assert parting_margin(margins, other) == margin


def test_a_text_that_goes_on_parts_at_the_end_token() -> None:
    assert parting_margin([("a", 1.0), ("", 8.0)], "a dog") == 8.0
    assert parting_margin([], "a dog") is None


def report() -> EvaluationReport:
    arms = [
        yes_no("YYNN", "YNNN", "told"),
        yes_no("YYNN", "YYNN", "alora"),
        yes_no("YYNN", "YYNN", "alora", "platform"),
    ]
    return EvaluationReport(
        task="safety",
        kind="choice",
        labels=("Y", "N"),
        primary="error",
        split="test",
        arms=tuple(arms),
        comparisons=tuple(compared(YES_NO, [*arms[:1], *arms[:1], *arms[1:]])),
        agreements=(agreement(arms[1], arms[2], "float32"),),
        facts={"seed": "0"},
    )


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    whole = report()
    whole.write(tmp_path / "results.json")
    found = EvaluationReport.read(tmp_path / "results.json")
    assert found == whole
    assert (found.items, found.arm("alora", "platform")) == (4, whole.arms[2])
    assert found.arm("lora") is None


def test_a_figure_without_a_value_survives_the_file(tmp_path: Path) -> None:
    same = [yes_no("YN", "YN", role, through) for role, through in (("told", "peft"), ("alora", "peft"))]  # type: ignore[arg-type]
    same.append(yes_no("YN", "YN", "alora", "platform"))
    whole = report().model_copy(update={"arms": tuple(same), "comparisons": tuple(compared(YES_NO, same))})
    whole.write(tmp_path / "results.json")
    found = EvaluationReport.read(tmp_path / "results.json").comparisons[-1]
    assert found.is_ratio
    assert math.isnan(found.estimate.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "results.json is not the result of an evaluation: content"),
        ('{"format": 9}', "results.json is not the result of an evaluation: task"),
        (None, "results.json cannot be read: No such file"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(TrainingError, match=message):
        EvaluationReport.read(path)
