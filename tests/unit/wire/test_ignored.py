"""Fields that nobody knows: passed over, named, and bounded in number and in what they cost."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from aloraserve.errors import InvalidRequestError
from aloraserve.wire import ChatRequest, CompletionRequest, parse_body
from aloraserve.wire.adapters import AliasRequest
from aloraserve.wire.ignored import MAX_HEADER_CHARACTERS, ignored_header

HELLO = {"role": "user", "content": "hello"}
CHAT: dict[str, Any] = {"model": "base", "messages": [HELLO]}


def chat(**fields: Any) -> ChatRequest:
    return parse_body(ChatRequest, json.dumps(CHAT | fields).encode())


def test_unknown_fields_are_named_once_with_what_is_above_them() -> None:
    parts = [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]
    request = chat(
        colour="red",
        messages=[HELLO | {"mood": "y"}, HELLO | {"mood": None}, {"role": "user", "content": parts}],
        stream=True,
        stream_options={"pace": 1},
        response_format={"type": "json_schema", "json_schema": {"schema": {"type": "object"}, "style": 1}, "x": {}},
        structured_outputs={"guided_json": {}},
    )
    assert set(request.ignored) == {
        "colour",
        "messages.mood",
        "messages.content.cache_control",
        "stream_options.pace",
        "response_format.json_schema.style",
        "response_format.x",
        "structured_outputs.guided_json",
    }
    assert [message.text for message in request.messages] == ["hello", "hello", "a"]
    assert len(request.ignored) == 7


def test_a_request_without_unknown_fields_ignores_nothing() -> None:
    assert chat(user="u", temperature=0).ignored == ()
    assert parse_body(CompletionRequest, b'{"model": "base", "prompt": [1, 2]}').ignored == ()


def test_a_schema_s_own_names_are_no_fields() -> None:
    schema = {"type": "object", "properties": {"mood": {"type": "string"}}}
    request = chat(structured_outputs={"json": schema}, chat_template_kwargs={"mood": {"x": 1}}, documents=[{"a": "b"}])
    assert request.ignored == ()


def test_a_client_cannot_say_what_was_ignored() -> None:
    assert chat(ignored=["colour"]).ignored == ("ignored",)
    assert chat(**{"(ignored)": ["colour"]}).ignored == ("(ignored)",)


def test_what_manages_adapters_stays_strict() -> None:
    with pytest.raises(InvalidRequestError, match="'shaer' is not a known field"):
        parse_body(AliasRequest, b'{"target": "a", "shaer": 0.5}')


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (b'"a": 1, "a": 2', "'a' twice"),
        (b'"a": [{"b": {"c": 1, "c": 2}}]', "'c' twice"),
        (b'"a": ' + b"[" * 9**5 + b"]" * 9**5, "nested too deeply"),
        (b'"a": ' + b"1" * 5000, "too many digits"),
        (b'"a": 1e999', "too many digits"),
        (b'"a": NaN', "not valid JSON|NaN"),
        (b'"a": "\\ud800"', "surrogate"),
        (b'"a": "\xff"', "not UTF-8"),
        (b",".join(b'"u%d": 1' % number for number in range(65)), "more than 64 fields"),
    ],
)
def test_what_nobody_reads_is_refused_as_before(extra: bytes, said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        parse_body(ChatRequest, json.dumps(CHAT).encode()[:-1] + b", " + extra + b"}")


def test_a_million_unknown_fields_are_refused_in_a_moment() -> None:
    """In time that no other call waits for, whether they stand in the body or within a field."""
    fields = b",".join(b'"u%d":1' % number for number in range(700_000))
    for extra in (fields, b'"u":{' + fields + b"}"):
        started = time.process_time()
        with pytest.raises(InvalidRequestError, match="more than 65536 names and texts"):
            parse_body(ChatRequest, json.dumps(CHAT).encode()[:-1] + b", " + extra + b"}")
        assert time.process_time() - started < 0.3


def test_a_long_text_with_many_quotes_has_few_names() -> None:
    text = '"\\' * 200_000
    assert chat(messages=[HELLO | {"content": text}], mood=text).messages[0].text == text


@pytest.mark.parametrize(
    ("names", "header"),
    [
        (["colour"], "colour"),
        (["messages.mood", "x-y"], "messages.mood, x-y"),
        (["a\r\nset-cookie: b", "é", "\ud800", "", "a,b"], "a%0D%0Aset-cookie%3A%20b, %C3%A9, %3F, , a%2Cb"),
        (["x" * 100], "x" * 61 + "..."),
    ],
)
def test_names_are_safe_in_a_header(names: list[str], header: str) -> None:
    assert ignored_header(names) == header


def test_names_that_do_not_fit_a_header_are_counted() -> None:
    header = ignored_header([f"{number:060}" for number in range(64)])
    assert len(header) <= MAX_HEADER_CHARACTERS + 5
    assert header.endswith(", +48")
    assert header.isascii()
