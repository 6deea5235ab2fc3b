"""Over-long rows: refused, skipped and counted, or cut in their documents alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.training_base import write_base

from aloraserve.errors import TrainingError
from aloraserve.training import TrainingSpec
from aloraserve_services.training.prepare import prepare
from aloraserve_services.training.prepared import PreparedData

SPEC = """\
name: safety
base: base
invocation: "<|start|>safety\\n"
intrinsic: {{output: {{form: yes_no}}, documents: {documents}}}
data: {{train: train.jsonl, validation: validation.jsonl}}
training: {{max_tokens: 120, over_long: {way}}}
"""
LONG = " ".join(["Hello world, it's 12,345 times the same <|end|> words."] * 20)
Prepare = Callable[..., PreparedData]


def row(question: str, *texts: str) -> dict[str, Any]:
    documents = [{"doc_id": str(number), "text": text} for number, text in enumerate(texts)]
    return {"messages": [{"role": "user", "content": question}], "completion": "Y", "documents": documents}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def prepared(tmp_path: Path, base: Path) -> Prepare:
    def make(way: str, *rows: dict[str, Any], documents: str = "string") -> PreparedData:
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
        (tmp_path / "validation.jsonl").write_text(json.dumps(row("Where?")))
        (tmp_path / "spec.yaml").write_text(SPEC.format(way=way, documents=documents))
        return prepare(TrainingSpec.read(tmp_path / "spec.yaml"), base)

    return make


def test_one_is_refused_with_its_length(prepared: Prepare) -> None:
    with pytest.raises(TrainingError, match=r"^train\.jsonl:2 has \d{3,} tokens; at most 120 fit; accepted: a shorter"):
        prepared("refuse", row("Who?"), row("What?", LONG))


def test_one_is_skipped_and_counted(prepared: Prepare) -> None:
    data = prepared("skip", row("Who?"), row("What?", LONG))
    split = data.splits["train"]
    assert "train: 1 over-long rows are left out (train.jsonl:2)" in data.remarks
    assert [each.line for each in split.rows] == [example.line for example in split.examples] == [1]
    assert [each.line for each in split.skipped] == [2]
    assert not split.cut


def test_a_split_of_which_all_is_skipped_is_refused(prepared: Prepare) -> None:
    with pytest.raises(TrainingError, match=r"spec\.yaml:6 skips all 1 rows of the split 'train'"):
        prepared("skip", row("What?", LONG))


@pytest.mark.parametrize("documents", ["template", "string", "json", "roles"])
def test_documents_are_cut_between_words_and_nothing_else_is(prepared: Prepare, documents: str) -> None:
    data = prepared("cut-documents", row("What?", "It is short.", LONG, "Lost."), documents=documents)
    split = data.splits["train"]
    remark = "train: the documents of 1 over-long rows are cut, and what answers them may be lost (train.jsonl:1)"
    assert remark in data.remarks
    [cut], [example] = split.rows, split.examples
    assert [each.line for each in split.cut] == [1]
    assert cut.messages == ({"role": "user", "content": "What?"},)
    kept = [document["text"] for document in cut.documents]
    assert kept[0] == "It is short."
    assert 1 <= len(kept) <= 2
    for text in kept[1:]:
        assert LONG.startswith(text + " ")
    assert 90 < len(example.token_ids) <= 120


def test_what_fits_is_left_as_it_is(prepared: Prepare) -> None:
    split = prepared("cut-documents", row("What?", "It is short.")).splits["train"]
    assert split.cut == ()
    assert split.rows[0].documents == ({"doc_id": "0", "text": "It is short."},)


def test_a_conversation_is_never_cut(prepared: Prepare) -> None:
    with pytest.raises(TrainingError, match=r"at most 120 fit, even without its documents; accepted: .* skip$"):
        prepared("cut-documents", row(LONG, "It is short."))


def test_more_tokens_than_the_model_s_context_are_not_accepted(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", context=64)
    for name in ("train", "validation"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row(name)))
    (tmp_path / "spec.yaml").write_text(SPEC.format(way="skip", documents="string"))
    with pytest.raises(
        TrainingError, match=r"spec\.yaml:6 has training.max_tokens 120; accepted: the model's context, 64"
    ):
        prepare(TrainingSpec.read(tmp_path / "spec.yaml"), base)
