"""Answerability from MTRAG-UN's tasks: labels, roles, splits by conversation, and files that are something else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aloraserve.errors import SettingsError
from aloraserve_services.intrinsics import answerability
from aloraserve_services.intrinsics.answerability import mtrag_rows


def task(number: int, label: str) -> str:
    return json.dumps(
        {
            "conversation_id": f"conversation {number}",
            "contexts": [{"document_id": "7", "text": "\nThe ferry leaves at nine. "}],
            "input": [
                {"speaker": "user", "text": "Is there a ferry?"},
                {"speaker": "agent", "text": "Yes."},
                {"speaker": "user", "text": f"When does ferry {number} leave?"},
            ],
            "answerability": [label],
            "Collection": ["govt"],
        }
    )


def test_tasks_that_say_yes_or_no_become_rows(tmp_path: Path) -> None:
    labels = ["ANSWERABLE", "UNANSWERABLE", "PARTIAL", "UNDERSPECIFIED"]
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join(task(number, labels[number % 4]) for number in range(120)))
    parts = mtrag_rows(path)
    rows = [row for made in parts.values() for row in made]
    assert len(rows) == 60
    assert len({row.conversation for row in rows}) == 60
    assert min(map(len, parts.values())) > 0
    for row in rows:
        number = int(row.conversation.split()[1])
        assert row.completion == labels[number % 4].lower()
        assert [role for role, _ in row.messages] == ["user", "assistant", "user"]
        assert row.documents == ("The ferry leaves at nine.",)


@pytest.mark.parametrize("line", ["{", "[]", '{"conversation_id": "a"}', '{"answerability": 3, "input": 1}'])
def test_a_line_that_is_not_a_task_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(f"{task(0, 'ANSWERABLE')}\n{line}\n")
    with pytest.raises(SettingsError, match=r"--data line 2 is not a task .* tasks\.jsonl is accepted"):
        mtrag_rows(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--data '.*gone' cannot be read"):
        mtrag_rows(tmp_path / "gone")


def test_a_file_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answerability, "MAX_DATA_BYTES", 400)
    path = tmp_path / "tasks.jsonl"
    path.write_text(task(0, "ANSWERABLE"))
    assert sum(map(len, mtrag_rows(path).values())) == 1
    path.write_text(f"{task(0, 'ANSWERABLE')}\n{task(1, 'ANSWERABLE')}")
    with pytest.raises(SettingsError, match="has more than 400 bytes"):
        mtrag_rows(path)


def test_a_line_separator_within_a_text_does_not_end_a_task(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(task(0, "ANSWERABLE").replace("Is there", "Is\u2028there"))
    assert sum(map(len, mtrag_rows(path).values())) == 1
