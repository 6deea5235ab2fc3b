"""Rows of the intrinsics: the same each time, balanced, read by the trainer, and without leaks between their parts."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path

import pytest

from aloraserve.errors import SettingsError, StartError
from aloraserve.training import ProblemList, TrainingSpec, read_rows
from aloraserve.training.leakage import find_leaks
from aloraserve_services.intrinsics.answerability import AnswerabilityBuilder
from aloraserve_services.intrinsics.builders import INTRINSICS, build_rows, write_rows
from aloraserve_services.intrinsics.hallucination import HallucinationBuilder
from aloraserve_services.intrinsics.row import BuiltRow, Part, of_part
from aloraserve_services.intrinsics.safety import SafetyBuilder
from aloraserve_services.intrinsics.texts import read_texts

DIGESTS = {
    "safety": "c8c71073e7015137",
    "safety-sentence": "8a0927177b02b35f",
    "hallucination": "ca6e35209022c71a",
    "uncertainty": "5c98ad24d85a8126",
    "answerability": "17aa21d9c1e6f4fb",
    "query-rewrite": "95da6cdcfbc28a77",
}
"""Of the first rows to train on: other rows need adapters that are trained again."""


def digest(rows: list[BuiltRow]) -> str:
    return hashlib.sha256("\n".join(row.line() for row in rows).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", INTRINSICS)
def test_rows_are_the_same_in_each_process_and_python(name: str) -> None:
    rows = list(INTRINSICS[name].builder(0, Part.TRAIN).rows(50))
    assert digest(rows) == DIGESTS[name]
    if name != "uncertainty":
        assert digest(list(INTRINSICS[name].builder(1, Part.TRAIN).rows(50))) != DIGESTS[name]


@pytest.mark.parametrize("name", INTRINSICS)
def test_written_rows_are_read_and_do_not_leak(name: str, tmp_path: Path) -> None:
    intrinsic = INTRINSICS[name]
    write_rows(intrinsic, build_rows(intrinsic, train_rows=240), tmp_path / name)
    spec = TrainingSpec.read(tmp_path / name / f"{name}.yaml")
    problems = ProblemList()
    read = {part: read_rows(tmp_path / name / f"{part}.jsonl", f"{part}.jsonl", problems).rows for part in Part}
    assert not problems.count
    assert {part: len(rows) for part, rows in read.items()} == {"train": 240, "validation": 20, "test": 40}
    assert list(find_leaks({str(part): rows for part, rows in read.items()})) == []  # type: ignore[misc]
    assert spec.name == name
    assert spec.intrinsic_spec() is not None


@pytest.mark.parametrize("name", ["safety", "safety-sentence", "hallucination", "answerability"])
@pytest.mark.parametrize("part", Part)
def test_answers_are_one_as_frequent_as_the_other(name: str, part: Part) -> None:
    counts = Counter(row.completion for row in INTRINSICS[name].builder(0, part).rows(200))
    assert sorted(counts.values()) == [100, 100]


def test_parts_share_no_text() -> None:
    entries = [f"text {number}" for number in range(40)]
    parts = [set(of_part(entries, part)) for part in Part]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 40


def test_requests_of_the_test_are_asked_nowhere_else() -> None:
    rows = {part: list(SafetyBuilder(0, part).rows(300)) for part in Part}
    asked = {part: {_last_user(row).split("\n\n")[-1] for row in made} for part, made in rows.items()}
    assert not asked[Part.TEST] & (asked[Part.TRAIN] | asked[Part.VALIDATION])
    held_out = set(read_texts("safety")["held_out"])
    topics = {part: {row.family.split("/")[1] for row in made} for part, made in rows.items()}
    assert held_out <= topics[Part.TEST]
    assert not held_out & topics[Part.TRAIN]


def test_a_safe_conversation_may_have_been_unsafe_before() -> None:
    """Only the last message counts, so that earlier ones and answers must not give the label away."""
    rows = list(SafetyBuilder(0, Part.TRAIN).rows(600))
    refusal = re.compile("(can't|cannot) (help|assist)")
    refused = Counter(row.completion for row in rows if any(refusal.search(text) for _, text in row.messages))
    assert min(refused["Y"], refused["N"]) > 20
    systems = Counter(row.completion for row in rows if row.messages[0][0] == "system")
    assert min(systems.values()) > 90


def test_long_conversations_are_safe_as_often_as_not() -> None:
    rows = [row for row in SafetyBuilder(0, Part.TRAIN).rows(1500) if sum(len(text) for _, text in row.messages) > 1200]
    labels = Counter(row.completion for row in rows)
    assert min(labels["Y"], labels["N"]) > 10
    warned = [
        row
        for row in rows
        if any(set(read_texts("safety")["warnings"]) & set(text.split("\n\n")) for _, text in row.messages)
    ]
    assert {row.completion for row in warned} == {"Y", "N"}
    assert len({len(row.messages) for row in rows}) > 1


@pytest.mark.parametrize("part", Part)
def test_faithful_answers_have_their_values_from_the_documents(part: Part) -> None:
    for row in HallucinationBuilder(0, part).rows(300):
        answer, context = row.messages[-1][1], " ".join([*row.documents, *(text for _, text in row.messages[:-1])])
        missing = [value for value in re.findall(r"\d[\d:]*", answer) if value not in re.findall(r"\d[\d:]*", context)]
        if row.completion == '"no"':
            assert not missing, row


def test_documents_stand_wherever_they_may_be_asked_about() -> None:
    for builder in (HallucinationBuilder, AnswerabilityBuilder):
        rows = list(builder(0, Part.TRAIN).rows(100))
        beside = sum(bool(row.documents) for row in rows)
        system = sum(row.messages[0][0] == "system" for row in rows)
        assert min(beside, system, len(rows) - beside - system) > 10


def test_wrong_answers_say_what_no_document_says() -> None:
    for row in HallucinationBuilder(0, Part.TRAIN).rows(300):
        context = " ".join([*row.documents, *(text for _, text in row.messages[:-1])])
        claims = re.split(r"(?<=[.!?]) ", row.messages[-1][1])
        if row.family in ("added", "contrary"):
            assert claims[-1] not in context, row


def test_what_a_builder_cannot_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--data is not accepted for 'safety'"):
        build_rows(INTRINSICS["safety"], data=tmp_path)
    with pytest.raises(SettingsError, match="--rows 3 is not accepted; 12 to 100000 are"):
        build_rows(INTRINSICS["safety"], train_rows=3)
    with pytest.raises(SettingsError, match="samples of the base model's answers for 28 rows of seed 7"):
        build_rows(INTRINSICS["uncertainty"], seed=7)
    (tmp_path / "here").write_text("")
    with pytest.raises(StartError, match="is not empty"):
        write_rows(INTRINSICS["safety"], {}, tmp_path)


def _last_user(row: BuiltRow) -> str:
    return [text for role, text in row.messages if role == "user"][-1]
