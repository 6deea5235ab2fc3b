"""Rows become the examples that serving would make, or every reason why not."""

import json
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.training_base import write_base
from transformers import AutoTokenizer

from aloraserve.adapters import InvocationMode
from aloraserve.errors import TrainingError
from aloraserve.training import TrainingSpec
from aloraserve_services.training.prepare import prepare
from aloraserve_services.training.prepared import PreparedData

SPEC = """\
name: safety
base: base
invocation: "<|start|>safety\\n"
intrinsic: {output: {form: yes_no}, documents: string}
data: {train: train.jsonl, validation: validation.jsonl}
"""

Prepare = Callable[..., PreparedData]


def row(text: str, completion: str = "Y", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "completion": completion, **more}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> Any:
    return AutoTokenizer.from_pretrained(str(base))


@pytest.fixture
def prepared(tmp_path: Path, base: Path) -> Prepare:
    def make(
        train: list[Any], spec: str = SPEC, *, validation: list[Any] | None = None, kind: str = ""
    ) -> PreparedData:
        held_back = [row("How is the weather up there?", "N")] if validation is None else validation
        for name, rows in (("train", train), ("validation", held_back)):
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
        (tmp_path / "spec.yaml").write_text(spec)
        read = TrainingSpec.read(tmp_path / "spec.yaml")
        return prepare(read.twin() if kind == "lora" else read, base)

    return make


def test_an_example_is_the_prompt_the_invocation_the_answer_and_the_end(prepared: Prepare, tokenizer: Any) -> None:
    data = prepared([row("Is it safe?")])
    [example] = data.splits["train"].examples
    invocation, answer = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("<|start|>safety\n", "Y<|end|>")
    )
    assert list(example.token_ids[example.activation :]) == [*invocation, *answer]
    assert list(example.token_ids[example.completion_start :]) == answer
    assert isinstance(example.token_ids, array)
    assert example.token_ids.itemsize == 4
    assert (data.mode, data.end_token) == (InvocationMode.APPENDED, tokenizer.eos_token_id)
    assert example.line == 1


def test_a_twin_has_the_same_tokens_and_acts_from_the_first(prepared: Prepare) -> None:
    rows = [row("Is it safe?"), row("And that other thing, is it?", "N")]
    alora, lora = (prepared(rows, kind=kind).splits["train"].examples for kind in ("", "lora"))
    assert [example.token_ids for example in alora] == [example.token_ids for example in lora]
    assert [example.activation for example in lora] == [0, 0]


def test_a_completion_that_invokes_is_refused(prepared: Prepare) -> None:
    spec = SPEC.replace('"<|start|>safety\\n"', '"Safe?"').replace("form: yes_no", "form: text")
    with pytest.raises(TrainingError) as caught:
        prepared([row("Is it?"), row("What did she ask you?", "She asked:Safe?")], spec)
    assert caught.value.message.startswith(
        "train.jsonl:2 has the invocation 'Safe?' in its completion, which would move"
    )


def test_every_row_s_problem_comes_at_once(prepared: Prepare) -> None:
    rows = [row("Is it?", "X"), {"messages": []}, row("And now?", "Y"), row("Where?", "yes")]
    with pytest.raises(TrainingError) as caught:
        prepared(rows)
    assert [line.split(" ")[0] for line in caught.value.message.splitlines()] == [
        "train.jsonl:1",
        "train.jsonl:2",
        "train.jsonl:4",
    ]
    assert "has the completion 'X'; accepted: 'Y', 'N'" in caught.value.message


def test_a_leak_is_refused_with_both_lines_unless_it_is_allowed(prepared: Prepare) -> None:
    rows = [row("Is the old bridge over the river safe?")]
    with pytest.raises(TrainingError, match=r"validation\.jsonl:1 \(validation\) has the messages of train\.jsonl:1"):
        prepared(rows, validation=rows)
    allowed = prepared(rows, SPEC.replace("validation.jsonl}", "validation.jsonl, duplicates: allow}"), validation=rows)
    assert len(allowed.splits["validation"].rows) == 1


def test_an_empty_split_is_refused_by_name(prepared: Prepare) -> None:
    spec = SPEC.replace("{train: train.jsonl, validation: validation.jsonl}", "{rows: train.jsonl}")
    with pytest.raises(TrainingError, match=r"spec\.yaml:5 leaves the split '\w+' empty: 1 conversations are divided"):
        prepared([row("Is it?")], spec)


def test_forms_and_labels_are_said(prepared: Prepare) -> None:
    data = prepared([row("Is it?", "N"), row("And now?"), row("Where?", "N")])
    assert list(data.remarks)[:3] == [
        "train.jsonl: rows in the form of messages and completion",
        "validation.jsonl: rows in the form of messages and completion",
        "train: 'N' 2, 'Y' 1",
    ]
