"""Rows in every form, and everything that can be wrong with one, by file and line."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from aloraserve.training import ProblemList, read_rows
from aloraserve.training.row_forms import RowForm
from aloraserve.training.rows import MAX_LINE_BYTES, RowFile

ASKED = [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "It is."}]
OURS = {"messages": ASKED, "completion": "Y", "documents": [{"text": "It is so."}], "conversation": "c1"}


def read(folder: Path, *lines: object) -> tuple[RowFile, list[str]]:
    data = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path = folder / "rows.jsonl"
    path.write_bytes(b"\n".join(data))
    problems = ProblemList()
    return read_rows(path, "rows.jsonl", problems), problems.text.splitlines()


@pytest.mark.parametrize(
    ("row", "form", "messages", "completion"),
    [
        (OURS, RowForm.MESSAGES, ASKED, "Y"),
        ({"messages": [*ASKED, {"role": "certainty", "content": "7"}]}, RowForm.LAST_MESSAGE, ASKED, "7"),
        ({"prompt": ASKED, "completion": [{"role": "assistant", "content": "Y"}]}, RowForm.PROMPT, ASKED, "Y"),
        ({"item": "Is it?", "label": "Y"}, RowForm.ITEM, ASKED[:1], "Y"),
    ],
)
def test_each_form_is_read(tmp_path: Path, row: Any, form: RowForm, messages: Any, completion: str) -> None:
    file, problems = read(tmp_path, row)
    assert problems == []
    assert file.form is form
    [found] = file.rows
    assert (list(found.messages), found.completion, found.line) == (messages, completion, 1)


def test_rows_that_begin_alike_are_of_one_conversation_unless_they_say(tmp_path: Path) -> None:
    file, _ = read(tmp_path, *({"messages": ASKED[:n], "completion": "Y"} for n in (1, 2)), OURS)
    first, second, named = file.rows
    assert first.conversation == second.conversation != named.conversation
    assert named.conversation == "c1"


def test_a_mark_crlf_and_empty_lines_are_accepted(tmp_path: Path) -> None:
    line = json.dumps(OURS).encode()
    file, problems = read(tmp_path, b"\xef\xbb\xbf" + line + b"\r", b"", b"  \r", line)
    assert problems == []
    assert [row.line for row in file.rows] == [1, 4]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ({"messages": ASKED[:1]}, "has no completion"),
        ({"messages": ASKED}, "has no completion, as line 1 has"),
        ({"messages": ASKED, "completion": " "}, "has an empty completion"),
        ({"messages": ASKED, "completion": 7}, "has completion 7; accepted: a text, such as '7'"),
        ({"messages": [], "completion": "Y"}, "has messages []"),
        ({"messages": ["x"], "completion": "Y"}, "has message 0 'x'"),
        ({"messages": [{"role": "usr", "content": "x"}], "completion": "Y"}, "message 0 with the unknown role 'usr'"),
        ({"messages": [{"role": "user"}], "completion": "Y"}, "content is required"),
        ({**OURS, "documents": "text"}, "has documents 'text'"),
        ({**OURS, "documents": [{}]}, "has an entry without fields"),
        ({**OURS, "fields": {"a": 1}}, "has fields {'a': 1}"),
        ({**OURS, "conversation": ""}, "has conversation ''"),
        ({**OURS, "completions": "Y"}, "unknown key 'completions'; did you mean 'completion'?"),
        ({**OURS, "id": "Y"}, "'metadata' may hold what is not used"),
        ({"item": "x"}, "has no label"),
        ({"label": "x"}, "has no item"),
        ({"item": "x", "label": None}, "has label None"),
        ({"prompt": "Is it?", "completion": "Y"}, "has prompt 'Is it?'; accepted: a list of messages"),
        ({"prompt": ASKED, "completion": []}, "has no completion"),
        ({"input": "x", "output": "y"}, "has the keys ['input', 'output']"),
        ([1], "is not a JSON object"),
        (b"{", "is not valid JSON"),
        (b'{"messages": 1, "messages": 2}', "has the key 'messages' twice"),
        (b'{"messages": [NaN], "completion": "Y"}', "not finite"),
        (b'{"item": "\xff", "label": "Y"}', "is not UTF-8"),
        (b'{"item": "\\ud800", "label": "Y"}', "half a surrogate pair"),
        (b'{"item": "' + b"x" * MAX_LINE_BYTES + b'", "label": "Y"}', f"has more than {MAX_LINE_BYTES} bytes"),
        (b"[" * 100_000, "is not valid JSON"),
    ],
)
def test_what_is_wrong_is_named_with_its_line_and_the_others_are_read(tmp_path: Path, line: object, found: str) -> None:
    lines = [OURS, line, OURS]
    if isinstance(line, dict) and not {"messages", "completions", "input"} & set(line):
        lines = [b"", line, b""]
    file, [problem] = read(tmp_path, *lines)
    assert problem.startswith("rows.jsonl:2 ")
    assert found in problem
    assert [row.line for row in file.rows] == ([1, 3] if lines[0] else [])


def test_a_mixture_of_forms_is_refused_by_line(tmp_path: Path) -> None:
    _, [problem] = read(tmp_path, OURS, {"item": "x", "label": "y"})
    assert problem.startswith("rows.jsonl:2 is in the form of item and label (mellea), line 1 in that of messages and")


@pytest.mark.parametrize("data", [b"", b"\n\n \n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_named(tmp_path: Path, data: bytes) -> None:
    file, problems = read(tmp_path, data)
    assert problems == ["rows.jsonl is empty; accepted: a JSON object per line"]
    assert file.rows == ()


def test_what_is_not_a_readable_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    problems = ProblemList()
    for name in ("none", "pipe", ".", "a\0b"):
        read_rows(tmp_path / name, name, problems)
    found = [problem.found for problem in problems.listed]
    assert found == [
        "cannot be read: No such file or directory",
        "is not a file",
        "is not a file",
        "has a path that is not one",
    ]


def test_many_problems_are_counted_and_the_first_listed(tmp_path: Path) -> None:
    _, problems = read(tmp_path, *[{"item": "x"}] * 50)
    assert len(problems) == 21
    assert problems[-1] == "and 30 more problems"
