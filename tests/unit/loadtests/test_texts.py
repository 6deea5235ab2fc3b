from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtests.plan import LoadPlan
from loadtests.replay import conversation_rows
from loadtests.texts import TextSource, read_documents


def test_equal_names_have_equal_texts_and_variants_share_no_beginning() -> None:
    texts = TextSource(3)
    assert texts.document("a", 50) == TextSource(3).document("a", 50)
    assert texts.document("a", 50) != texts.document("b", 50)
    assert texts.document("a", 50) != TextSource(4).document("a", 50)
    openings = [texts.opening(f"variant {number}")["content"] for number in range(50)]
    assert len({text[:8] for text in openings}) == 50
    assert len({len(text) for text in openings}) == 1


def test_real_documents_are_read_and_long_enough(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    task = {"contexts": [{"document_id": "1", "text": "one two three"}, {"document_id": "2", "text": "four five"}]}
    path.write_text(json.dumps(task) + "\n\n" + json.dumps(task) + "\n")
    documents = read_documents(path)
    assert documents == ["one two three", "four five"]
    assert len(TextSource(0, documents).document("x", 40).split()) == 40


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "is not JSON"), ("[]", "not an object"), ('{"contexts": [{}]}', "without a text"), ("{}", "no documents")],
)
def test_what_is_not_a_task_is_refused_with_its_place(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        read_documents(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_documents(tmp_path / "missing")


def test_rows_of_a_trace_that_share_ids_share_their_text(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    rows = [
        {"timestamp": 1000, "input_length": 700, "output_length": 5, "hash_ids": [1, 2]},
        {"timestamp": 3000, "input_length": 1200, "output_length": 5, "hash_ids": [1, 2, 3]},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    first, second = conversation_rows(LoadPlan((), trace=path))
    assert (first.arrival_s, second.arrival_s) == (0.0, 2.0)
    texts = TextSource(0)
    one, two = (row.messages(texts, 1.0, 5000)[0]["content"].split() for row in (first, second))
    assert len(one) == 700
    assert two[:700] == one
    assert len(first.messages(texts, 1.0, 600)[0]["content"].split()) == 600
    assert len(conversation_rows(LoadPlan((), trace_rows=7))) == 7
