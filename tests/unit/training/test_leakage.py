"""Rows that repeat one of an earlier side are found, in a time that grows with the rows."""

import random

import pytest

from aloraserve.training import TrainingRow, leakage
from aloraserve.training.leakage import NEAR, Leak, find_leaks

WORDS = [f"word{number}" for number in range(2_000)]


def row(text: str, conversation: str | None = None, line: int = 1, **more: object) -> TrainingRow:
    messages = ({"role": "system", "content": "You are helpful."}, {"role": "user", "content": text})
    return TrainingRow(conversation or text, messages, "Y", file="rows.jsonl", line=line, **more)  # type: ignore[arg-type]


def sentence(seed: int, words: int = 40) -> list[str]:
    return random.Random(seed).choices(WORDS, k=words)


def leaks_of(train: list[TrainingRow], test: list[TrainingRow]) -> list[Leak]:
    return list(find_leaks({"train": tuple(train), "validation": (), "test": tuple(test)}))


def test_rows_that_differ_in_case_and_punctuation_are_equal() -> None:
    [leak] = leaks_of([row("What is it?", "a", 3)], [row("what is  IT", "b", 9)])
    assert (leak.kind, leak.earlier.line, leak.later.line) == ("equal", 3, 9)
    assert leak.found == "(test) has the messages of rows.jsonl:3"


def test_rows_of_one_conversation_leak() -> None:
    [leak] = leaks_of([row("one thing", "a")], [row("something else entirely", "a")])
    assert leak.kind == "conversation"


@pytest.mark.parametrize("seed", range(20))
def test_a_word_that_was_changed_makes_no_other_row(seed: int) -> None:
    words = sentence(seed)
    changed = [*words]
    changed[seed] = "another"
    [leak] = leaks_of([row(" ".join(words), "a")], [row(" ".join(changed), "b")])
    assert leak.kind == "near"
    assert leak.similarity >= NEAR


@pytest.mark.parametrize("seed", range(20))
def test_rows_that_share_half_their_words_do_not_leak(seed: int) -> None:
    words, other = sentence(seed), sentence(seed + 1000)
    assert not leaks_of([row(" ".join(words), "a")], [row(" ".join(words[:20] + other[:20]), "b")])


def test_short_questions_of_one_template_do_not_leak() -> None:
    train = [row(f"What is {number} + {number}?") for number in range(50)]
    assert not leaks_of(train, [row(f"What is {number} + {number}?") for number in range(50, 100)])


def test_a_shared_document_or_label_is_no_leak() -> None:
    shared = {"documents": ({"text": "the same document for all"},)}
    assert not leaks_of([row("How old is it?", **shared)], [row("Where does it stand now?", **shared)])


def test_validation_is_compared_with_training_and_test_with_both() -> None:
    rows = [row("How old is the bridge?", name) for name in "abc"]
    splits = {"train": (rows[0],), "validation": (rows[1],), "test": (rows[2],)}
    assert [leak.split for leak in find_leaks(splits)] == ["validation", "test"]  # type: ignore[arg-type]


def test_rows_without_words_are_compared_too() -> None:
    assert [leak.kind for leak in leaks_of([row("?", "a")], [row("!", "b")])] == ["equal"]


def test_rows_that_share_their_bands_are_not_all_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    similarity = leakage._jaccard
    monkeypatch.setattr(leakage, "_jaccard", lambda one, other: compared.append(one) or similarity(one, other) * 0.5)
    rows = [row(" ".join([*sentence(0), str(number)]), str(number)) for number in range(400)]
    assert not leaks_of(rows[:200], rows[200:])
    assert len(compared) == 200 * leakage.MAX_COMPARED
