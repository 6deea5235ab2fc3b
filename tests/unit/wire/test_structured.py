"""The form of an answer: two fields mean the same, one form counts, and what would hurt an engine is refused."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from aloraserve.errors import InvalidRequestError
from aloraserve.wire import ChatRequest, CompletionRequest, StructuredOutput, parse_body
from aloraserve.wire.pattern import pattern_fault

YES_NO = {"type": "string", "enum": ["yes", "no"]}


def chat(**fields: Any) -> ChatRequest:
    body = {"model": "base", "messages": [{"role": "user", "content": "hello"}]} | fields
    return parse_body(ChatRequest, json.dumps(body).encode())


def structured(**outputs: Any) -> StructuredOutput | None:
    return chat(structured_outputs=outputs).sampling().structured


def schema_of(form: StructuredOutput | None) -> Any:
    assert form is not None
    assert form.kind == "json"
    schema = json.loads(form.text)
    schema.pop("x-guidance", None)
    return schema


@pytest.mark.parametrize(
    "fields",
    [
        {"structured_outputs": {"json": YES_NO}},
        {"structured_outputs": {"json": json.dumps(YES_NO)}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": YES_NO}}},
        {
            "structured_outputs": {"json": YES_NO, "regex": None},
            "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": YES_NO}},
        },
    ],
)
def test_a_schema_is_the_same_however_it_comes(fields: dict[str, Any]) -> None:
    assert schema_of(chat(**fields).sampling().structured) == YES_NO


def test_a_completion_takes_a_form_as_well() -> None:
    body = {"model": "base", "prompt": "hello", "structured_outputs": {"json": YES_NO}}
    assert schema_of(parse_body(CompletionRequest, json.dumps(body).encode()).sampling().structured) == YES_NO


def test_every_kind_has_its_form() -> None:
    assert structured(regex="[0-9]") == StructuredOutput("regex", "[0-9]")
    assert structured(choice=["yes", "no"]) == StructuredOutput("choice", choices=("yes", "no"))
    assert structured(grammar='start: "a"') == StructuredOutput("grammar", 'start: "a"')
    assert schema_of(structured(json_object=True)) == {"type": "object"}
    assert schema_of(chat(response_format={"type": "json_object"}).sampling().structured) == {"type": "object"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"structured_outputs": {"json": YES_NO, "regex": "a"}}, "structured_outputs"),
        ({"structured_outputs": {"json_object": True, "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"structured_outputs": {"choice": ["a", ""]}}, "structured_outputs.choice.1"),
        ({"structured_outputs": {"choice": ["x"] * 1025}}, "structured_outputs.choice"),
        ({"structured_outputs": {"grammar": "x" * 40_000}}, "structured_outputs.grammar"),
        ({"structured_outputs": {"grammar": 'start: %json {"minItems": 1000000000}'}}, "structured_outputs.grammar"),
        ({"structured_outputs": {"json": [1]}}, "structured_outputs.json"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
        ({"structured_outputs": {"json": '"{}"'}}, "structured_outputs.json"),
        ({"structured_outputs": {"json": {"description": "x" * 70_000}}}, "structured_outputs.json"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"whitespace_pattern": "x"}}, "structured_outputs.whitespace_pattern"),
        ({"structured_outputs": {"regex": "a", "disable_any_whitespace": True}}, "structured_outputs"),
        ({"structured_outputs": "json"}, "structured_outputs"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
            "response_format.json_schema.schema",
        ),
        ({"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}}, None),
    ],
)
def test_a_form_that_is_none_is_refused_by_name(fields: dict[str, Any], param: str | None) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        chat(**fields)
    assert caught.value.param == param
    assert "structured_outputs" in caught.value.message or "response_format" in caught.value.message


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        ({"type": "array", "minItems": 1_000_000_000}, "counts of items"),
        ({"properties": {f"p{i}": {"maxItems": 1000} for i in range(5)}}, "counts of items"),
        ({"type": "string", "maxLength": 10**9}, "a length is above"),
        (nested(70), "deeper than 64"),
        ({"enum": list(range(6000))}, "more than 5000 values"),
        ({"properties": {f"p{i}": True for i in range(401)}}, "401 properties"),
        ({"anyOf": [{"const": i} for i in range(129)]}, "129 entries"),
        ({"allOf": [{"pattern": f".*a.{{{i}}}b.*"} for i in range(20)]}, "20 patterns"),
        ({"$defs": {"a": {"format": "date"}}, "$ref": "#/$defs/a", "allOf": [{"pattern": "a"}] * 8}, "9 patterns"),
        ({"type": "string", "pattern": "((a{1000}){1000}){1000}"}, "repeats what is repeated"),
        ({"x-guidance": {"whitespace_pattern": "((a{1000}){1000})"}}, "x-guidance"),
    ],
)
def test_a_schema_that_would_take_an_engine_s_memory_or_time_is_refused_at_once(schema: Any, fault: str) -> None:
    started = time.process_time()
    with pytest.raises(InvalidRequestError, match=fault):
        structured(json=schema)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    "schema",
    [
        nested(20),
        {"type": "object", "properties": {f"p{i}": {"type": "string", "format": "date"} for i in range(50)}},
        {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}], "title": "t", "default": None, "$defs": {"a": YES_NO}},
        {"oneOf": [{"const": 1}, {"const": 2}]},
    ],
)
def test_schemas_as_clients_make_them_are_accepted(schema: Any) -> None:
    assert schema_of(structured(json=schema)) == schema


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        (r"\d{4}-\d{2}-\d{2}T\d{2}", ""),
        (r"(a{100})b{50}", ""),
        (r"[({]{3}(x{2}){4}\({5}", ""),
        (r"[\s\S]{1,4000}", ""),
        (r"(a{100}){100}", "repeats what is repeated"),
        (r"a{30}{40}", "repeats what is repeated"),
        (r"(a|b{50}c){1,30}", "repeats what is repeated"),
        ("a{99999999999999999999}", "more than 100000 times"),
        ("a{1,200000}", "more than 100000 times"),
        ("))((", ""),
    ],
)
def test_counted_repetitions_are_bounded(pattern: str, fault: str) -> None:
    found = pattern_fault(pattern)
    assert fault in found
    assert bool(found) == bool(fault)
