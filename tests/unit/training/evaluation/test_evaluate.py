"""``aloraserve evaluate`` on a tiny model: the arms, what is written, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from support.random_adapters import write_random_adapter
from typer.testing import CliRunner, Result

from aloraserve.training import TrainingRow
from aloraserve.training.results import EvaluationReport, ItemResult
from aloraserve_services.cli.main import app
from aloraserve_services.training.served_answers import ServedAnswers

INTRINSIC = {"output": {"form": "yes_no"}}
SPEC = """\
name: safety
base: {base}
invocation: "<|start|>safety\\n"
intrinsic: {{output: {{form: yes_no}}}}
description: Is the question unsafe?
data: {{train: rows.jsonl, validation: rows.jsonl, test: rows.jsonl, duplicates: allow}}
"""

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def folders(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("evaluated")
    kinds = {"alora": "<|start|>safety\n", "single": "<|start|>", "lora": None}
    found = {
        name: write_random_adapter(root / name, tiny_base, invocation=text, intrinsic=INTRINSIC, seed=number)
        for number, (name, text) in enumerate(kinds.items())
    }
    digits = {"output": {"form": "digit"}}
    found["digits"] = write_random_adapter(root / "digits", tiny_base, invocation="<|start|>d", intrinsic=digits)
    return found


@pytest.fixture
def run(tmp_path: Path, tiny_base: Path, folders: dict[str, Path]) -> Run:
    words = ("cake", "bomb")
    rows = [
        {"messages": [{"role": "user", "content": f"{number}: a {words[number % 2]}?"}], "completion": "NY"[number % 2]}
        for number in range(12)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "spec.yaml").write_text(SPEC.format(base=tiny_base))

    def evaluate(*arguments: str, adapter: Path = folders["alora"]) -> Result:
        given = [str(tmp_path / "spec.yaml"), "--adapter", str(adapter), "--dtype", "float32"]
        places = ["--out", str(tmp_path / "out"), "--state-dir", str(tmp_path / "state")]
        return CliRunner().invoke(app, ["evaluate", *given, *places, *arguments])

    return evaluate


def test_every_arm_answers_the_same_rows(run: Run, tmp_path: Path, folders: dict[str, Path]) -> None:
    found = run("--twin", str(folders["lora"]), "--compare", str(folders["single"]), "--limit", "7")
    assert found.exit_code == 0, found.output
    report = EvaluationReport.read(tmp_path / "out" / "results.json")
    arms = [(arm.role, arm.through) for arm in report.arms]
    roles = ("base", "told", "alora", "lora", "compared")
    assert arms == [("majority", "rule"), *((role, "peft") for role in roles)]
    assert len({tuple((item.line, item.truth) for item in arm.items) for arm in report.arms}) == 1
    assert [item.line for item in report.arms[0].items] == sorted({item.line for item in report.arms[0].items})
    assert (report.items, report.primary, report.split) == (7, "error", "test")
    assert all(item.label in ("Y", "N") for arm in report.arms for item in arm.items)
    told = report.arm("told")
    assert told is not None
    assert told.facts["instruction"] == "Is the question unsafe? Answer with Y or N, and with nothing else."
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "results.json",
        "report.md",
        "report.html",
        "errors.svg",
        "invocations.svg",
        "reliability-safety.svg",
    }
    assert "aLoRA less LoRA" in found.output


def test_the_same_rows_and_seed_give_the_same_report(run: Run, tmp_path: Path) -> None:
    written = []
    for _ in range(2):
        assert run("--limit", "3", "--seed", "4").exit_code == 0
        written.append((tmp_path / "out" / "results.json").read_bytes())
    assert written[0] == written[1]


def test_other_tasks_stand_in_the_same_report(run: Run, tmp_path: Path) -> None:
    assert run("--limit", "2").exit_code == 0
    whole = EvaluationReport.read(tmp_path / "out" / "results.json")
    whole.model_copy(update={"task": "uncertainty"}).write(tmp_path / "other.json")
    assert run("--limit", "2", "--beside", str(tmp_path / "other.json")).exit_code == 0
    report = (tmp_path / "out" / "report.md").read_text()
    assert report.startswith("# aLoRA against LoRA: safety, uncertainty\n")
    assert EvaluationReport.read(tmp_path / "out" / "results.json").task == "safety"
    refused(run("--beside", str(tmp_path / "spec.yaml")), 2, "spec.yaml is not the result of an evaluation")


def refused(found: Result, code: int, *words: str) -> None:
    assert found.exit_code == code, found.output
    text = " ".join(found.output.split())
    assert all(word in text for word in words), text


def test_an_adapter_that_does_not_fit_is_refused(run: Run, folders: dict[str, Path], tmp_path: Path) -> None:
    refused(run(adapter=folders["lora"]), 2, "--adapter 'lora' is of the kind lora; alora is accepted")
    refused(run(adapter=folders["digits"]), 2, "'digits' answers with one digit from 0 to 9", "asks for Y or N")
    refused(run("--twin", str(folders["single"])), 2, "--twin 'single' is of the kind alora; lora is accepted")
    refused(run(adapter=tmp_path / "nowhere"), 2, "--adapter 'nowhere' cannot be used")
    wide = shutil.copytree(folders["alora"], tmp_path / "wide")
    config = json.loads((wide / "adapter_config.json").read_text())
    (wide / "adapter_config.json").write_text(json.dumps(config | {"r": 8}))
    refused(run(adapter=wide), 2, "--adapter 'wide' cannot be used")


def test_data_that_is_not_there_is_refused(run: Run, tmp_path: Path) -> None:
    spec = (tmp_path / "spec.yaml").read_text()
    (tmp_path / "spec.yaml").write_text(spec.replace(" test: rows.jsonl,", ""))
    refused(run(), 2, "spec.yaml has no rows in the split 'test'")
    row = '{"messages": [{"role": "user", "content": "a"}], "completion": "Perhaps"}\n'
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write(row)
    refused(run("--split", "validation"), 2, "rows.jsonl:13 has the completion 'Perhaps'")


def test_a_platform_that_cannot_be_asked_is_named(run: Run, folders: dict[str, Path], tmp_path: Path) -> None:
    refused(run("--model", "safety"), 2, "--model is given without --url")
    refused(run("--url", "http://127.0.0.1:9"), 2, "--url is given without --model")
    refused(run("--url", "ftp://x", "--model", "safety"), 2, "--url is not accepted")
    where = ("--url", "http://127.0.0.1:9", "--model", "safety", "--limit", "1")
    refused(run(*where), 2, "no platform answers at http://127.0.0.1:9")
    refused(run(*where, "--twin-model", "other"), 2, "--twin-model is 'other' without --twin")
    (tmp_path / "key").write_text("two keys\n")
    refused(run(*where, "--api-key-file", str(tmp_path / "key")), 2, "does not hold a key; one line")
    refused(run(*where, "--api-key-file", str(tmp_path / "gone")), 2, "--api-key-file cannot be read")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").write_text("a file")
    refused(run(), 2, "is a file; a folder is accepted")


def test_a_disagreement_is_in_the_exit_code_and_listed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(self: object, model: str, version: object, rows: Sequence[TrainingRow], *_: object) -> list[ItemResult]:
        return [ItemResult(file=row.file, line=row.line, truth=row.completion, text="?", label=None) for row in rows]

    monkeypatch.setattr(ServedAnswers, "answers", wrong)
    found = run("--limit", "2", "--url", "http://127.0.0.1:9", "--model", "safety")
    assert found.exit_code == 1, found.output
    assert "of 2 answers 0 are equal" in found.output
    assert "PEFT and the platform disagree" in found.output
    assert (tmp_path / "out" / "report.md").read_text().count("| disagreement |") == 2
