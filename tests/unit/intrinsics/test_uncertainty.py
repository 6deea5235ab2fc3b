"""Rows of the uncertainty intrinsic: targets by the rate of right answers, spread over the digits, made again alike."""

from __future__ import annotations

import gzip
import hashlib
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pytest

from aloraserve.errors import SettingsError, StartError
from aloraserve_services.intrinsics.asked_questions import asked_questions
from aloraserve_services.intrinsics.builders import INTRINSICS, build_rows
from aloraserve_services.intrinsics.row import Part
from aloraserve_services.intrinsics.uncertainty import (
    MAX_EXTREME,
    QUESTIONS,
    SHIPPED,
    Sample,
    UncertaintyBuilder,
    packed,
    question_key,
    sample,
    shipped_samples,
    spread,
)

UNCERTAINTY = INTRINSICS["uncertainty"]


class _Knowing:
    """A base model that is right as often as the hash of a question says: 0 to all times."""

    def __init__(self) -> None:
        self._questions = {
            each.messages: each.question for part in Part for each in islice(asked_questions(0, part), 400)
        }

    def answers(self, chats: Sequence[list[dict[str, str]]], count: int) -> list[list[str]]:
        return [self._answered(chat, count) for chat in chats]

    def _answered(self, chat: list[dict[str, str]], count: int) -> list[str]:
        question = self._questions[tuple((message["role"], message["content"]) for message in chat)]
        return [question.right[0]] * known(question.text, count) + [""] * (count - known(question.text, count))


def known(text: str, count: int) -> int:
    """Return how many of so many answers are right."""
    return hashlib.sha256(text.encode()).digest()[0] % (count + 1)


class _Mute:
    """A base model that says nothing."""

    def answers(self, chats: Sequence[list[dict[str, str]]], count: int) -> list[list[str]]:
        return [[""] * count for _ in chats]


def test_the_digit_is_the_rate_of_right_answers() -> None:
    asked = list(islice(asked_questions(0, Part.TRAIN), 300))
    samples = list(sample(asked, _Knowing()))
    assert [found.right for found in samples] == [known(each.question.text, 10) for each in asked]
    assert [Sample("", "", right, 10).digit for right in range(11)] == list("01234556789")
    by_key = {found.question: found for found in samples}
    rows = list(UncertaintyBuilder(0, Part.TRAIN, samples).rows(300))
    assert [row.completion for row in rows] == [by_key[question_key(each)].digit for each in asked]
    assert {row.messages[-1][0] for row in rows} == {"assistant"}


def test_what_is_always_wrong_or_always_right_is_no_more_than_a_fifth_each() -> None:
    samples = [Sample(str(number), "", [0, 0, 0, 5, 10, 10][number % 6], 10) for number in range(600)]
    kept = list(spread(samples))
    for size in range(1, len(kept) + 1):
        counts = Counter(found.right for found in kept[:size])
        assert max(counts[0], counts[10]) <= MAX_EXTREME * size
    assert sum(found.right == 5 for found in kept) == 100
    assert 160 <= len(kept) <= 166


@pytest.mark.parametrize("part", Part)
def test_the_targets_that_ship_are_spread_and_a_constant_is_far_from_them(part: Part) -> None:
    digits = [int(row.completion) for row in UncertaintyBuilder(0, part).rows(QUESTIONS[part])]
    counts = Counter(digits)
    assert set(counts) == set(range(10))
    assert max(counts.values()) <= 0.21 * len(digits)
    assert min(sum(abs(digit - constant) for digit in digits) for constant in range(10)) >= 2 * len(digits)


def test_samples_are_written_as_they_ship(tmp_path: Path) -> None:
    made = build_rows(UNCERTAINTY, train_rows=24, sampler=_Knowing(), samples_file=tmp_path / "samples.gz")
    build_rows(UNCERTAINTY, train_rows=24, sampler=_Knowing(), samples_file=tmp_path / "again.gz")
    assert (tmp_path / "samples.gz").read_bytes() == (tmp_path / "again.gz").read_bytes()
    assert {part: len(rows) for part, rows in made.items()} == {Part.TRAIN: 24, Part.VALIDATION: 2, Part.TEST: 4}
    folder = Path(__file__).parents[3] / "services/aloraserve_services/intrinsics/samples"
    assert gzip.decompress(packed(shipped_samples())) == gzip.decompress((folder / SHIPPED).read_bytes())
    assert (folder / SHIPPED).stat().st_size < 150_000


def test_what_cannot_be_sampled_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--samples is accepted with --base alone"):
        build_rows(UNCERTAINTY, samples_file=tmp_path / "samples.gz")
    with pytest.raises(SettingsError, match="only 0 rows for train, not 12: the base model is always wrong"):
        build_rows(UNCERTAINTY, train_rows=12, sampler=_Mute())
    with pytest.raises(StartError, match="samples cannot be written to"):
        build_rows(UNCERTAINTY, train_rows=12, sampler=_Knowing(), samples_file=tmp_path)
