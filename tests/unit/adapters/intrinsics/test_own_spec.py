"""Our own specs, in ``aloraserve.json``."""

from __future__ import annotations

import random
from typing import Any

import pytest
from support.io_yaml import UNCERTAINTY

from aloraserve.adapters.intrinsics import (
    ChoiceForm,
    GuardRule,
    JsonForm,
    RegexForm,
    TextForm,
    read_intrinsic,
)
from aloraserve.errors import InvalidAdapterError

CASES = 10_000


@pytest.mark.parametrize(
    ("output", "form"),
    [
        ({"form": "yes_no"}, ChoiceForm(("Y", "N"), (1.0, 0.0), "yes_no")),
        ({"form": "yes_no", "choices": ["Yes", "No"]}, ChoiceForm(("Yes", "No"), (1.0, 0.0), "yes_no")),
        ({"form": "choice", "choices": ["a", "b", "c"]}, ChoiceForm(("a", "b", "c"))),
        (
            {"form": "choice", "choices": ["ok", "bad"], "probabilities": [0, 1]},
            ChoiceForm(("ok", "bad"), (0.0, 1.0)),
        ),
        ({"form": "regex", "pattern": "[0-9]+%"}, RegexForm("[0-9]+%")),
        ({"form": "json", "schema": {"type": "object"}}, JsonForm('{"type": "object"}')),
        ({"form": "text"}, TextForm()),
    ],
)
def test_each_form_of_an_answer_can_be_said(output: dict[str, Any], form: object) -> None:
    spec = read_intrinsic(None, {"output": output})
    assert spec is not None
    assert spec.form == form


def test_a_digit_stands_for_the_middle_of_its_tenth() -> None:
    spec = read_intrinsic(None, {"output": {"form": "digit"}})
    assert spec is not None
    assert isinstance(spec.form, ChoiceForm)
    assert spec.form.choices == tuple("0123456789")
    assert spec.form.numbers[7] == 0.75
    assert (spec.needs_logprobs, spec.gives_probability) == (True, True)


def test_the_rest_of_a_spec_is_read() -> None:
    spec = read_intrinsic(
        None,
        {
            "output": {"form": "yes_no"},
            "instruction": "Is it {criteria}?",
            "parameters": {"max_tokens": 2, "stop": "\n"},
            "documents": "roles",
            "guard": {"threshold": 0.2, "refuses": "below"},
        },
    )
    assert spec is not None
    assert (spec.fields, spec.documents, spec.guard) == (("criteria",), "roles", GuardRule(0.2, "below"))
    assert (spec.parameters.max_tokens, spec.parameters.stop) == (2, ("\n",))
    assert [spec.guard.is_refusal(chance) for chance in (0.1, 0.2, 0.3)] == [True, True, False]


def test_an_adapter_without_a_spec_is_not_an_intrinsic() -> None:
    assert read_intrinsic(None) is None


@pytest.mark.parametrize(
    ("own", "named"),
    [
        ("safety", "is 'safety'; an object"),
        ({}, "has no 'output'"),
        ({"output": {"form": "essay"}}, "output.form 'essay'; digit, yes_no, choice, regex, json, text"),
        ({"output": {"form": ["text"]}}, "output.form"),
        ({"output": {"form": "text", "pattern": "x"}}, "'pattern'; nothing else"),
        ({"output": {"form": "text"}, "prompt": "x"}, "has 'prompt'; accepted are output,"),
        ({"output": {"form": "choice"}}, "output.choices None; a list of 2 to 64"),
        ({"output": {"form": "choice", "choices": ["a", "a"]}}, "different texts"),
        ({"output": {"form": "choice", "choices": ["a", 1]}}, "different texts"),
        ({"output": {"form": "choice", "choices": ["a", "b"], "probabilities": [1]}}, "a list of 2 numbers"),
        ({"output": {"form": "choice", "choices": ["a", "b"], "probabilities": [1, 2]}}, "from 0 to 1"),
        ({"output": {"form": "yes_no", "choices": ["a", "b", "c"]}}, "a list of two"),
        ({"output": {"form": "regex", "pattern": ""}}, "1 to 1024 characters"),
        ({"output": {"form": "json", "schema": "{}"}}, "a JSON schema"),
        ({"output": {"form": "text"}, "instruction": 3}, "instruction 3; a text"),
        ({"output": {"form": "text"}, "documents": "xml"}, "documents 'xml'; template,"),
        ({"output": {"form": "text"}, "guard": {"threshold": 2}}, "guard.threshold 2; a number from 0 to 1"),
        ({"output": {"form": "text"}, "guard": {"threshold": True}}, "guard.threshold True"),
        ({"output": {"form": "text"}, "guard": {"refuses": "both"}}, "above or below"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_name_and_what_is_accepted(own: object, named: str) -> None:
    with pytest.raises(InvalidAdapterError) as refused:
        read_intrinsic(None, own)
    assert named in refused.value.message


def test_two_specs_of_one_adapter_are_refused() -> None:
    with pytest.raises(InvalidAdapterError, match="one of them is accepted"):
        read_intrinsic(UNCERTAINTY, {"output": {"form": "text"}})


def test_no_value_does_more_than_be_refused() -> None:
    chance = random.Random(16)
    values: list[Any] = [
        None,
        True,
        -1,
        0.5,
        10**30,
        "",
        "text",
        "Y",
        "{x}",
        "{",
        [],
        ["Y", "N"],
        {},
        {"form": "digit"},
    ]
    keys = ["output", "instruction", "parameters", "documents", "guard", "form", "choices", "threshold", "x"]
    accepted = 0
    for _ in range(CASES):
        own = {chance.choice(keys): _value(chance, keys, values, 2) for _ in range(chance.randint(0, 4))}
        if chance.random() < 0.5:
            own["output"] = {"form": chance.choice(["digit", "yes_no", "choice", "text", "json", "regex"])}
        try:
            accepted += read_intrinsic(None, own) is not None
        except InvalidAdapterError as error:
            assert error.message.startswith("aloraserve.json: intrinsic")  # noqa: PT017
    assert accepted > 100


def _value(chance: random.Random, keys: list[str], values: list[Any], depth: int) -> Any:
    if depth and chance.random() < 0.4:
        return {chance.choice(keys): _value(chance, keys, values, depth - 1) for _ in range(chance.randint(0, 3))}
    return chance.choice(values)
