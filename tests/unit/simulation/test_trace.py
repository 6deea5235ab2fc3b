"""Traces: what a line must be, which rows are one conversation, and the generated one."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from aloraserve.errors import SettingsError
from aloraserve.simulation.trace import ID_TOKENS, GeneratedTrace, TraceRow, read_trace, with_sessions

GOOD = {"timestamp": 1500, "input_length": 700, "output_length": 20, "hash_ids": [0, 7]}


def write(folder: Path, *rows: object) -> Path:
    path = folder / "trace.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def row(*ids: int) -> TraceRow:
    return TraceRow(0.0, ID_TOKENS * len(ids), 1, ids)


def test_rows_come_sorted_by_time_in_seconds(tmp_path: Path) -> None:
    rows = read_trace(write(tmp_path, GOOD, "", {**GOOD, "timestamp": 200}))
    assert [one.arrival_s for one in rows] == [0.2, 1.5]
    assert rows[1].ids == (0, 7)


def test_the_first_rows_are_enough(tmp_path: Path) -> None:
    assert len(read_trace(write(tmp_path, GOOD, GOOD, "no JSON"), limit=2)) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "trace.jsonl:2 is not JSON"),
        ("[]", "an object is needed"),
        ({**GOOD, "timestamp": -1}, "timestamp is -1"),
        ({**GOOD, "timestamp": True}, "timestamp is True"),
        ({**GOOD, "input_length": 0}, "input_length is 0"),
        ({**GOOD, "output_length": "9"}, "output_length is '9'"),
        ({**GOOD, "hash_ids": [1]}, "hash_ids must be 2 whole numbers"),
        ({**GOOD, "hash_ids": [1, -2]}, "hash_ids must be 2 whole numbers"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: object, message: str) -> None:
    with pytest.raises(SettingsError, match=message.replace("[", r"\[").replace("(", r"\(")):
        read_trace(write(tmp_path, GOOD, line))


def test_a_trace_that_is_not_there_or_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        read_trace(tmp_path / "none")
    with pytest.raises(SettingsError, match="has no rows"):
        read_trace(write(tmp_path, ""))


def test_rows_that_share_more_than_the_first_id_are_one_session() -> None:
    rows = with_sessions([row(0, 1, 2), row(0, 5), row(0, 1, 3), row(0, 1, 3, 4), row(0, 9, 2)])
    assert [one.session for one in rows] == ["s0", "s1", "s0", "s0", "s4"]


def test_a_generated_trace_is_its_seeds() -> None:
    trace = GeneratedTrace()
    assert trace.rows(200, 1) == trace.rows(200, 1)
    assert trace.rows(200, 1) != trace.rows(200, 2)


def test_generated_conversations_grow_and_share_documents() -> None:
    rows = GeneratedTrace(documents=3).rows(400, 0)
    assert [one.arrival_s for one in rows] == sorted(one.arrival_s for one in rows)
    assert all(len(one.ids) == -(-one.input_tokens // ID_TOKENS) for one in rows)
    by_session: dict[str, list[TraceRow]] = {}
    for one in rows:
        by_session.setdefault(one.session, []).append(one)
    for turns in by_session.values():
        for earlier, later in itertools.pairwise(turns):
            whole = earlier.input_tokens // ID_TOKENS
            assert later.ids[:whole] == earlier.ids[:whole]
            assert later.input_tokens >= earlier.input_tokens + earlier.output_tokens
    firsts = [turns[0].ids[0] for turns in by_session.values()]
    assert len(set(firsts)) <= 3 < len(firsts)
