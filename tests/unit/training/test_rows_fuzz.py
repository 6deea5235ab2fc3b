"""Whatever bytes a spec or a file of rows holds, reading them ends in a report and in nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aloraserve.errors import TrainingError
from aloraserve.training import ProblemList, TrainingSpec, read_rows

KEYS = ["messages", "completion", "documents", "fields", "conversation", "metadata", "prompt", "item", "label", "role"]
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["user", "assistant"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*KEYS, "content", "text"]) | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=12,
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "certainty", "document 1"]), "content": JSON}
)
ROW = st.dictionaries(st.sampled_from(KEYS), JSON | st.lists(MESSAGE, max_size=3), max_size=5)
LINE = (ROW | JSON).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40)
SPEC_KEYS = ["name", "kind", "base", "invocation", "mode", "intrinsic", "data", "lora", "training", "rows", "rank"]
SPEC = st.dictionaries(st.sampled_from(SPEC_KEYS), JSON | st.dictionaries(st.sampled_from(SPEC_KEYS), JSON, max_size=3))
QUICK = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(st.lists(LINE, max_size=6))
def test_each_line_is_a_row_or_a_problem(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(line.replace(b"\n", b"") for line in lines))
    problems = ProblemList()
    file = read_rows(path, "rows.jsonl", problems)
    named = {problem.line for problem in problems.listed}
    filled = sum(
        bool(line.removeprefix(b"\xef\xbb\xbf" if not number else b"").strip(b" \t\r\n"))
        for number, line in enumerate(line.replace(b"\n", b"") for line in lines)
    )
    assert len(file.rows) + len(named - {0}) == filled
    assert all("\n" not in problem.text and len(problem.text) < 1_000 for problem in problems.listed)
    for row in file.rows:
        assert row.completion.strip()
        assert row.chat("base").messages


@QUICK
@given(SPEC.map(lambda value: yaml.safe_dump(value, allow_unicode=True).encode()) | st.binary(max_size=60))
def test_a_spec_is_read_or_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(data)
    with pytest.raises(TrainingError) as caught:
        TrainingSpec.read(path)
    for line in caught.value.message.splitlines():
        assert line.startswith(("spec.yaml", "and "))
        assert len(line) < 2_000
