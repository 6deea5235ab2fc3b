"""Questions of the uncertainty intrinsic: right answers by an independent computation, and how answers are checked."""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice, pairwise

import pytest

from aloraserve_services.intrinsics.asked_questions import AskedQuestion, asked_questions
from aloraserve_services.intrinsics.questions import Question
from aloraserve_services.intrinsics.row import Part
from aloraserve_services.intrinsics.texts import read_texts

ROMAN = {"I": 1, "V": 5, "X": 10}


@pytest.fixture(scope="module")
def asked() -> dict[Part, list[AskedQuestion]]:
    return {part: list(islice(asked_questions(3, part), 900)) for part in Part}


def test_what_is_computed_is_right(asked: dict[Part, list[AskedQuestion]]) -> None:
    seen = Counter[str]()
    for question in (each.question for part in Part for each in asked[part]):
        numbers = [int(number) for number in re.findall(r"\d+", question.text)]
        match question.family.split()[0]:
            case "arithmetic":
                found = re.search(r"(\d+) (\+|-|x|plus|minus|times) (\d+)", question.text)
                assert found is not None
                sign = {"plus": "+", "minus": "-", "x": "*", "times": "*"}.get(found[2], found[2])
                expected = eval(f"{found[1]}{sign}{found[3]}")
            case "compare":
                expected = (max if "larger" in question.text else min)(numbers)
                assert question.offered == str(sum(numbers) - expected)
            case "sequence":
                expected = 2 * numbers[3] - numbers[2]
            case "parity":
                expected = "odd" if numbers[0] % 2 else "even"
            case "Roman":
                [numeral] = re.findall(r"\b[IVX]+\b", question.text)
                values = [ROMAN[sign] for sign in numeral] + [0]
                expected = sum(-now if now < then else now for now, then in pairwise(values))
            case _:
                continue
        assert question.right == (str(expected),), question
        seen[question.family.split()[0]] += 1
    assert min(seen[kind] for kind in ("arithmetic", "compare", "sequence", "parity", "Roman")) > 5


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        (Question("?", ("7",)), "3 + 4 = 7.", True),
        (Question("?", ("7",)), "7 + 4 is 11", False),
        (Question("?", ("1200",)), "That is 1,200", True),
        (Question("?", ("7",)), "Seven", False),
        (Question("?", ("7", "seven")), "Seven", True),
        (Question("?", ("Paris",)), "It is paris, of course", True),
        (Question("?", ("Rome",)), "Romeo", False),
        (Question("?", ("Paris",)), "", False),
        (Question("?", ("Fe",)), "The symbol is Fe", True),
        (Question("?", ("Fe",)), "few", False),
        (Question("?", ("H",)), "h", False),
        (Question("?", ("Kyiv", "Kiev")), "Kiev", True),
        (Question("?", ("tool",), ("animal", "plant")), "A tool.", True),
        (Question("?", ("tool",), ("animal", "plant")), "A tool or a plant.", False),
        (Question("?", ("car",), offered="cyclist"), "A car is faster than a cyclist.", True),
        (Question("?", ("car",), offered="cyclist"), "A cyclist, not a car.", False),
        (Question("?", ("82",), offered="54"), "82 is more than 54.", True),
        (Question("?", ("82",), offered="54"), "I do not know.", False),
    ],
)
def test_answers_are_checked(question: Question, answer: str, *, expected: bool) -> None:
    assert question.is_right(answer) is expected


def test_parts_ask_for_different_facts_in_different_words(asked: dict[Part, list[AskedQuestion]]) -> None:
    facts = {part: {each.question.fact for each in made} for part, made in asked.items()}
    texts = {part: {text for each in made for _, text in each.messages[-1:]} for part, made in asked.items()}
    for first, second in ((Part.TRAIN, Part.TEST), (Part.TRAIN, Part.VALIDATION), (Part.VALIDATION, Part.TEST)):
        assert not facts[first] & facts[second]
        assert not texts[first] & texts[second]
    assert min(len(found) for found in facts.values()) > 100


def test_earlier_turns_are_of_facts_of_the_same_part(asked: dict[Part, list[AskedQuestion]]) -> None:
    earlier = {
        part: {text for each in made for role, text in each.messages[:-1] if role == "user"}
        for part, made in asked.items()
    }
    assert min(map(len, earlier.values())) > 50
    assert not earlier[Part.TEST] & (earlier[Part.TRAIN] | earlier[Part.VALIDATION])


def test_families_that_are_held_out_are_in_the_test_alone(asked: dict[Part, list[AskedQuestion]]) -> None:
    held_out = set(read_texts("questions")["held_out"])
    families = {part: {each.question.family.split()[0] for each in made} for part, made in asked.items()}
    assert held_out <= families[Part.TEST]
    assert not held_out & (families[Part.TRAIN] | families[Part.VALIDATION])


def test_what_is_asked_about_a_document_stands_in_it(asked: dict[Part, list[AskedQuestion]]) -> None:
    about = [each for made in asked.values() for each in made if each.question.family.startswith("document ")]
    for each in about:
        _, sentence = each.question.fact.split(": ", 1)
        assert each.question.right[0] in sentence
        assert any(sentence in text for _, text in each.messages)
    places = Counter(
        role for each in about for role, text in each.messages if each.question.fact.split(": ", 1)[1] in text
    )
    assert min(places["system"], places["user"]) > 50
