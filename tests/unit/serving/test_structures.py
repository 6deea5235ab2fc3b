"""Forms of answers are compiled before an engine meets them; what is wrong with them is said in a line."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloraserve.errors import InvalidRequestError
from aloraserve.serving.structures import check_structure
from aloraserve.wire import ChatRequest, parse_body


def chat(**fields: Any) -> ChatRequest:
    body = {"model": "base", "messages": [{"role": "user", "content": "hello"}]} | fields
    return parse_body(ChatRequest, json.dumps(body).encode())


def schema(wanted: Any) -> dict[str, Any]:
    return {"structured_outputs": {"json": wanted}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (schema({"type": "strin"}), "the json of 'structured_outputs' cannot be compiled: Invalid type: strin"),
        (schema({"type": "object", "properties": []}), "properties must be an object"),
        (schema({"$ref": "file:///etc/passwd"}), "not present in a registry"),
        (schema({"$ref": "https://example.com/schema.json"}), "not present in a registry"),
        (schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (
            {"structured_outputs": {"regex": "(a"}},
            "the regex of 'structured_outputs' cannot be compiled: unclosed group",
        ),
        ({"structured_outputs": {"regex": r"(a)\1"}}, "backreferences are not supported"),
        ({"structured_outputs": {"grammar": "start: nothing"}}, 'unknown name: "nothing"'),
        ({"structured_outputs": {"grammar": '{"grammars": [{"json_schema": {}}]}'}}, "cannot be compiled"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "strin"}}}},
            "the json of 'response_format' cannot be compiled: Invalid type: strin",
        ),
    ],
)
async def test_what_cannot_be_compiled_is_refused_in_a_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await check_structure(chat(**fields))
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.param in fields


@pytest.mark.parametrize(
    "fields",
    [
        {},
        schema({"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(200)}}),
        schema({"oneOf": [{"type": "string"}, {"type": "integer"}]}),
        {"structured_outputs": {"choice": ["a", 'with "quotes"', "é\n"]}},
        {"structured_outputs": {"grammar": 'root ::= "yes" | "no"'}},
        {"structured_outputs": {"json_object": True}},
    ],
)
async def test_what_can_be_compiled_passes(fields: dict[str, Any]) -> None:
    await check_structure(chat(**fields))


WORDS = st.sampled_from(
    [
        "type",
        "object",
        "array",
        "string",
        "properties",
        "items",
        "enum",
        "$ref",
        "#/$defs/a",
        "$defs",
        "anyOf",
        "allOf",
        "pattern",
        "(a",
        "format",
        "date",
        "minItems",
        "required",
        "const",
        "json",
        "regex",
        "choice",
        "grammar",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 10**10) | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(["structured_outputs", "response_format"]), VALUES)
@settings(max_examples=300, deadline=2000)
def test_whatever_is_sent_is_a_form_or_the_client_s_error(field: str, value: Any) -> None:
    for sent in (value, {"json": value}, {"type": "json_schema", "json_schema": {"schema": value}}):
        with contextlib.suppress(InvalidRequestError):
            asyncio.run(check_structure(chat(**{field: sent})))
