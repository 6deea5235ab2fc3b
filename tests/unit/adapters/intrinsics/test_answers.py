"""Raw answers as values: the forms' own, and those of granite-common's transformations."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import pytest
from granite_common.intrinsics import IntrinsicsResultProcessor
from support.io_yaml import CITATIONS, HALLUCINATION, LIBRARY, REQUIREMENT_CHECK, UNCERTAINTY

from aloraserve.adapters.intrinsics import IntrinsicSpec, read_intrinsic
from aloraserve.adapters.intrinsics.answers import Asked, IntrinsicValue, RawAnswer, choice_probabilities, interpret
from aloraserve.errors import UnusableAnswerError


@dataclass(frozen=True)
class Token:
    token: str
    logprob: float


@dataclass(frozen=True)
class Tokens:
    chosen: Token
    alternatives: tuple[Token, ...] = ()


def position(token: str, chance: float, **others: float) -> Tokens:
    return Tokens(Token(token, math.log(chance)), tuple(Token(name, math.log(value)) for name, value in others.items()))


def own(**output: Any) -> IntrinsicSpec:
    spec = read_intrinsic(None, {"output": output})
    assert spec is not None
    return spec


def library(name: str) -> IntrinsicSpec:
    spec = read_intrinsic(LIBRARY[name])
    assert spec is not None
    return spec


def of(spec: IntrinsicSpec, text: str, *logprobs: Tokens, asked: Asked | None = None) -> IntrinsicValue:
    return interpret(spec, RawAnswer(text, logprobs), asked or Asked())


def test_yes_or_no_is_a_truth_value_with_the_probability_of_yes() -> None:
    found = of(own(form="yes_no"), "N", position("N", 0.6, Y=0.2, maybe=0.2))
    assert found.value is False
    assert found.probability == pytest.approx(0.25)
    assert found.probabilities == pytest.approx({"Y": 0.25, "N": 0.75})


def test_a_digit_is_a_number_and_an_expected_probability() -> None:
    found = of(own(form="digit"), "7", position("7", 0.5, **{"8": 0.5}))
    assert found.value == 7
    assert found.probability == pytest.approx(0.8)


def test_a_choice_has_a_probability_only_where_its_choices_stand_for_numbers() -> None:
    found = of(own(form="choice", choices=["safe", "toxic"]), "safe", position("safe", 0.9, toxic=0.1))
    assert (found.value, found.probability) == ("safe", None)
    assert found.probabilities == pytest.approx({"safe": 0.9, "toxic": 0.1})
    spec = own(form="choice", choices=["safe", "toxic"], probabilities=[0, 1])
    assert of(spec, "safe", position("safe", 0.9, toxic=0.1)).probability == pytest.approx(0.1)


def test_without_log_probabilities_the_answer_is_certain() -> None:
    assert of(own(form="yes_no"), " Y\n").probabilities == {"Y": 1.0, "N": 0.0}


def test_choices_that_begin_alike_are_told_apart_where_they_differ() -> None:
    choices = ["unanswerable", "unclear", "answerable"]
    found = choice_probabilities(choices, [position("un", 0.8, answer=0.2), position("clear", 0.25, answerable=0.75)])
    assert found == pytest.approx({"unclear": 0.2, "unanswerable": 0.6, "answerable": 0.2})


def test_an_alternative_that_several_choices_begin_with_counts_for_each() -> None:
    found = choice_probabilities(["yes", "unclear", "unsafe"], [position("yes", 0.5, un=0.5)])
    assert found == pytest.approx({"yes": 0.5, "unclear": 0.25, "unsafe": 0.25})


def test_a_choice_that_another_one_begins_with_is_chosen_by_its_end() -> None:
    ended = position("<end>", 0.75, **{"0": 0.25})
    assert choice_probabilities(["1", "10"], [position("1", 1.0), ended]) == pytest.approx({"1": 0.75, "10": 0.25})


@pytest.mark.parametrize("form", ["digit", "yes_no"])
def test_an_answer_that_is_no_choice_is_unusable_and_not_repeated(form: str) -> None:
    with pytest.raises(UnusableAnswerError) as refused:
        of(own(form=form), "my secret")
    assert "secret" not in refused.value.message


def test_a_text_and_a_pattern_are_what_they_are() -> None:
    assert of(own(form="text"), " two words ").value == " two words "
    assert of(own(form="regex", pattern="[0-9]+%"), "40%").value == "40%"


@pytest.mark.parametrize("output", [{"form": "regex", "pattern": "x+"}, {"form": "json", "schema": {}}])
def test_an_answer_that_was_cut_off_says_so(output: dict[str, Any]) -> None:
    with pytest.raises(UnusableAnswerError, match="cut off"):
        interpret(own(**output), RawAnswer('{"x', is_cut_off=True), Asked())


@pytest.mark.parametrize("text", ["", "{", "NaN", "[" * 100_000, '{"a": Infinity}'])
@pytest.mark.parametrize("spec", [own(form="json", schema={}), read_intrinsic(UNCERTAINTY)])
def test_what_is_not_json_is_unusable(spec: IntrinsicSpec, text: str) -> None:
    with pytest.raises(UnusableAnswerError):
        of(spec, text, position(text or " ", 1.0))


def test_a_likelihood_is_the_expected_value_over_the_alternatives() -> None:
    found = of(library("uncertainty"), "7", position("7", 0.5, **{"8": 0.5}))
    assert found.value == {"certainty": pytest.approx(0.8)}
    assert found.probability == pytest.approx(0.8)
    tokens = [position('{"score": "', 1.0), position("no", 0.75, yes=0.25), position('"}', 1.0)]
    check = of(library("requirement-check"), '{"score": "no"}', *tokens)
    assert check.probability == pytest.approx(0.25)


def test_sentences_are_decoded_from_the_numbered_message() -> None:
    text = '[{"sentence_num": 1, "is_faithful": "partial", "reasoning": "half"}]'
    before, after = text.split("partial")
    tokens = [position(before, 1.0), position("partial", 1.0), position(after, 1.0)]
    messages = [
        ("user", '[{"doc_id": "1", "text": "<c0> It rains."}]'),
        ("user", "Q"),
        ("assistant", "<i0> A b. <i1> C d."),
        ("user", "I"),
    ]
    found = of(library("hallucination"), text, *tokens, asked=Asked(messages))
    assert found.value == [
        {
            "response_begin": 5,
            "response_end": 9,
            "response_text": "C d.",
            "faithfulness_likelihood": pytest.approx(0.5),
            "explanation": "half",
        }
    ]


def test_records_that_are_equal_are_dropped_which_the_kept_package_does_not() -> None:
    answer = '[{"r": 0, "c": [0, 1, 0]}]'
    asked = Asked([("assistant", "<r0> A."), ("user", "Cite")], [("7", "<c0> B. <c1> C.")])
    found = of(library("citations"), answer, asked=asked).value
    assert [(one["citation_text"], one["citation_doc_id"]) for one in found] == [("B. ", "7"), ("C.", "7")]


@pytest.mark.parametrize(
    "answer", ['{"r": 1}', '[{"r": 99, "c": [0]}]', '[{"r": "x", "c": [0]}]', "[1]", '[{"r": 0}]', "7"]
)
def test_an_answer_that_the_transformations_do_not_take_is_unusable_and_not_repeated(answer: str) -> None:
    asked = Asked([("assistant", "<r0> A."), ("user", "Cite")], [("7", "<c0> B.")])
    with pytest.raises(UnusableAnswerError) as refused:
        of(library("citations"), answer, asked=asked)
    assert "99" not in refused.value.message


def test_values_are_those_of_the_kept_package() -> None:
    """Where it has no fault, its own processor says the same."""
    tokens = [position('{"score": "', 1.0), position("yes", 0.6, no=0.3, y=0.1), position('"}', 1.0)]
    content = {
        "content": [
            {
                "token": one.chosen.token,
                "logprob": one.chosen.logprob,
                "top_logprobs": [{"token": other.token, "logprob": other.logprob} for other in one.alternatives],
            }
            for one in tokens
        ]
    }
    import yaml

    config = {name: value for name, value in yaml.safe_load(REQUIREMENT_CHECK).items() if name != "name"}
    choice = {"index": 0, "message": {"role": "assistant", "content": '{"score": "yes"}'}, "logprobs": content}
    theirs = IntrinsicsResultProcessor(config_dict=config).transform({"choices": [choice]})
    ours = of(library("requirement-check"), '{"score": "yes"}', *tokens)
    assert ours.value == json.loads(theirs.choices[0].message.content)


def test_the_library_is_all_seven_transformations() -> None:
    kinds = {word for text in (HALLUCINATION, CITATIONS, UNCERTAINTY) for word in text.decode().split()}
    assert {"likelihood", "nest", "decode_sentences,", "project"} & kinds
