"""``make train-demo``: which rows and trainings are taken for which, the second test, and what stands in a card."""

from __future__ import annotations

from pathlib import Path

import pytest

from aloraserve.training import ProblemList, TrainingSpec, read_rows
from aloraserve.training.results import EvaluationReport, ItemResult, Role
from aloraserve.training.scored_form import ScoredForm
from aloraserve.training.scoring import ArmAnswers, scored
from aloraserve_services.intrinsics import train_demo
from aloraserve_services.intrinsics.results_table import with_results
from aloraserve_services.intrinsics.train_demo import built_spec, second_test, trained_folder
from aloraserve_services.training.progress import Silence
from aloraserve_services.training.run import TrainedAdapter
from aloraserve_services.training.run_folder import RunFolder

CARD = "# safety\n\n## Results\n\n| split | loss |\n\n## Data\n\nRows.\n"


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> TrainingSpec:
    return built_spec("safety", tmp_path_factory.mktemp("work"))


def test_rows_of_another_version_are_built_again(tmp_path: Path, spec: TrainingSpec) -> None:
    (tmp_path / "safety").mkdir()
    (tmp_path / "safety" / "train.jsonl").write_text('{"messages": [')
    assert built_spec("safety", tmp_path).digest() == spec.digest()


def test_an_adapter_of_other_rows_is_not_taken_for_this_one(tmp_path: Path, spec: TrainingSpec) -> None:
    folder = trained_folder(spec, tmp_path)
    assert folder != trained_folder(spec.twin(), tmp_path)
    changed = built_spec("safety", tmp_path / "changed")
    with (changed.folder / "train.jsonl").open("a") as file:
        file.write((changed.folder / "test.jsonl").read_text())
    assert trained_folder(changed, tmp_path) != folder
    assert trained_folder(built_spec("safety", tmp_path / "elsewhere"), tmp_path) == folder


def test_the_second_test_has_the_messages_that_were_written_by_hand(spec: TrainingSpec) -> None:
    second = second_test(spec)
    assert second is not None
    assert second.data.test is not None
    assert second.data.train == spec.data.train
    problems = ProblemList()
    [name] = second.data.test
    rows = read_rows(second.file(name), name, problems).rows
    assert not problems.count
    assert sorted({row.completion for row in rows}) == ["N", "Y"]
    assert len(rows) == 46


def test_an_intrinsic_without_such_messages_has_no_second_test(spec: TrainingSpec) -> None:
    assert second_test(spec.model_copy(update={"name": "hallucination"})) is None


def test_a_training_that_was_stopped_goes_on_and_one_that_is_done_is_left(
    tmp_path: Path, spec: TrainingSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed: list[bool] = []

    def train(spec: TrainingSpec, out: Path, *, resume: bool, **_: object) -> TrainedAdapter:
        resumed.append(resume)
        out.mkdir(parents=True, exist_ok=True)
        if not resume:
            (RunFolder(out).path / "checkpoint-7").mkdir(parents=True)
            return TrainedAdapter(out, {}, 7, 9, "SIGINT")
        RunFolder(out).remove()
        return TrainedAdapter(out, {}, 9, 9)

    monkeypatch.setattr(train_demo, "train", train)
    with pytest.raises(train_demo.StartError, match="stopped by SIGINT; the same command goes on with safety"):
        train_demo._trained(spec, tmp_path, tmp_path, Silence())
    for _ in range(2):
        assert train_demo._trained(spec, tmp_path, tmp_path, Silence()) == trained_folder(spec, tmp_path)
    assert resumed == [False, True]


def report(*roles: Role) -> EvaluationReport:
    form = ScoredForm.of(None)
    items = [ItemResult(file="test.jsonl", line=line, truth="a", text="a", label=None) for line in (1, 2)]
    arms = tuple(scored(form, ArmAnswers(role, role, "peft", items, {})) for role in roles)
    return EvaluationReport(task="safety", kind=form.kind, labels=(), primary="rouge_l", split="test", arms=arms)


@pytest.mark.parametrize(
    ("name", "folders"),
    [("hallucination", ["hallucination", "hallucination-lora"]), ("answerability", ["answerability"])],
)
def test_a_twin_is_trained_where_the_spec_has_its_shape(
    name: str, folders: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(spec: TrainingSpec, out: Path, **_: object) -> TrainedAdapter:
        out.mkdir(parents=True)
        (out / "README.md").write_text(CARD)
        return TrainedAdapter(out, {}, 1, 1)

    monkeypatch.setattr(train_demo, "train", train)
    monkeypatch.setattr(train_demo, "evaluate", lambda *_: report("alora"))
    monkeypatch.setattr(train_demo, "prepare_training", lambda spec, _: spec)
    train_demo.train_demo([name], tmp_path / "work", tmp_path / "out", tmp_path, Silence())
    assert sorted(folder.name for folder in (tmp_path / "out").iterdir()) == folders


def test_a_card_says_first_that_the_twin_had_fewer_passes(spec: TrainingSpec) -> None:
    card = with_results(CARD, spec, report("alora", "lora"), report("alora"))
    assert card.startswith(
        "# safety\n\n## Results\n\n**No claim about aLoRA against LoRA is made from these figures**: "
    )
    assert "had 3 passes over the rows and the aLoRA 6, and other learning rates were not tried for the twin." in card
    assert "On 2 messages that we wrote one by one, in other styles:" in card
    assert "| split | loss |" not in card
    assert card.endswith("\n\n## Data\n\nRows.\n")
    assert "No claim" not in with_results(CARD, spec, report("alora"), None)
    alike = spec.model_copy(update={"twin_training": spec.training})
    assert "No claim" not in with_results(CARD, alike, report("alora", "lora"), None)
