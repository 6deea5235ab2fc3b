"""Questions of the uncertainty intrinsic: right answers by an independent computation, and how answers are checked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import pytest

from aloraserve_services.intrinsics.questions import Question, QuestionSource
from aloraserve_services.intrinsics.row import Part
from aloraserve_services.intrinsics.uncertainty import Sample, UncertaintyBuilder, asked_questions, sample


def test_arithmetic_is_right() -> None:
    source, seen = QuestionSource(3, Part.TRAIN), Counter[str]()
    for _ in range(800):
        question = source.question()
        found = re.search(r"(\d+) (\+|-|x|plus|minus|times) (\d+)", question.text)
        if found:
            sign = {"plus": "+", "minus": "-", "x": "*", "times": "*"}.get(found[2], found[2])
            assert question.right == (str(eval(f"{found[1]}{sign}{found[3]}")),)
            seen[sign] += 1
        if question.family.startswith("compare"):
            numbers = [int(number) for number in re.findall(r"\d+", question.text)]
            assert question.right == (str((max if "larger" in question.text else min)(numbers)),)
            seen["compare"] += 1
    assert min(seen[kind] for kind in ("+", "-", "*", "compare")) > 10


@pytest.mark.parametrize(
    ("right", "answer", "expected"),
    [
        (("7",), "3 + 4 = 7.", True),
        (("7",), "7 + 4 is 11", False),
        (("1200",), "That is 1,200", True),
        (("7",), "Seven", False),
        (("Paris",), "It is paris, of course", True),
        (("Rome",), "Romeo", False),
        (("Fe",), "The symbol is Fe", True),
        (("Fe",), "few", False),
        (("H",), "h", False),
        (("Kyiv", "Kiev"), "Kiev", True),
    ],
)
def test_answers_are_checked(right: tuple[str, ...], answer: str, *, expected: bool) -> None:
    assert Question("?", right).is_right(answer) is expected


def test_parts_ask_different_questions() -> None:
    asked = {part: {one.question.text for one in asked_questions(0, part, 100)} for part in Part}
    assert not asked[Part.TEST] & asked[Part.TRAIN]
    assert not asked[Part.VALIDATION] & asked[Part.TRAIN]
    assert not asked[Part.TEST] & asked[Part.VALIDATION]


class _Always:
    """A base model that is right at every question whose answer is a given one."""

    def answers(self, chats: Sequence[list[dict[str, str]]], count: int) -> list[list[str]]:
        return [["Paris"] * (count - 2) + ["Rome"] * 2 for _ in chats]


def test_the_digit_is_the_rate_of_right_answers() -> None:
    asked = asked_questions(0, Part.TRAIN, 60)
    samples = list(sample(asked, _Always()))
    by_question = {one.question: one for one in samples}
    rates = {by_question[one.question.text].right for one in asked}
    assert rates <= {0, 2, 6}
    assert [Sample("", "", "", right, 8).digit for right in range(9)] == ["0", "1", "2", "3", "5", "6", "7", "8", "9"]
    rows = list(UncertaintyBuilder(0, Part.TRAIN, samples).rows(60))
    assert [row.completion for row in rows] == [by_question[row.messages[1][1]].digit for row in rows]
