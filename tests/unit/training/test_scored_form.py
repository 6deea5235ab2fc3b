"""Which labels an intrinsic's answers have, and what they stand for."""

from __future__ import annotations

import pytest

from aloraserve.adapters.intrinsics import read_intrinsic
from aloraserve.training.scored_form import ScoredForm

IO_YAML = b"""\
model: ~
response_format: '{"type": "string", "enum": ["yes", "no"]}'
transformations:
  - {type: likelihood, input_path: [], categories_to_values: {"yes": 1.0, "no": 0.0}}
"""


def form(output: dict[str, object]) -> ScoredForm:
    return ScoredForm.of(read_intrinsic(None, {"output": output}))


def test_yes_and_no_are_labels_that_stand_for_one_and_zero() -> None:
    found = form({"form": "yes_no", "choices": ["Y", "N"]})
    assert (found.kind, found.labels, found.words) == ("choice", ("Y", "N"), "Y or N")
    assert (found.label(" Y\n"), found.label("Yes"), found.label(None)) == ("Y", None, None)
    assert (found.number("Y"), found.number("N"), found.number(None)) == (1, 0, None)


def test_digits_stand_for_shares() -> None:
    found = form({"form": "digit"})
    assert (found.kind, found.number("7"), found.words) == ("digit", 0.75, "one digit from 0 to 9")


def test_choices_without_numbers_stand_for_nothing() -> None:
    found = form({"form": "choice", "choices": ["a", "b", "c"]})
    assert (found.kind, found.number("b"), found.words) == ("choice", None, "a, b or c")


def test_json_with_few_possible_texts_is_a_choice_as_the_model_writes_it() -> None:
    found = ScoredForm.of(read_intrinsic(IO_YAML))
    assert (found.kind, found.labels, found.numbers) == ("choice", ('"yes"', '"no"'), (1.0, 0.0))
    assert (found.label('"yes"'), found.label("yes")) == ('"yes"', None)


@pytest.mark.parametrize("output", [{"form": "text"}, {"form": "json", "schema": {"type": "object"}}])
def test_other_answers_are_texts(output: dict[str, object]) -> None:
    found = form(output)
    assert (found.kind, found.label(" any text ")) == ("text", "any text")


def test_an_adapter_that_is_no_intrinsic_answers_with_texts() -> None:
    assert ScoredForm.of(None) == ScoredForm("text")
