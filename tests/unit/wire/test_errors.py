"""Errors: each class has one response, and no response carries what it should not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aloraserve import errors
from aloraserve.wire import ChatRequest, CompletionRequest, parse_body, reply_for

SECRET = "the patient's name is in here " * 20


@pytest.mark.parametrize(
    ("exc", "status", "code"),
    [
        (errors.InvalidRequestError("bad", param="n"), 400, None),
        (errors.UnknownModelError("no such model", param="model"), 404, "model_not_found"),
        (errors.AuthenticationError("no key"), 401, "invalid_api_key"),
        (errors.OverloadedError("full"), 429, "overloaded"),
        (errors.ReplicaLostError("died"), 502, "replica_lost"),
        (errors.DirectoryUnavailableError("slow"), 503, "directory_unavailable"),
    ],
)
def test_each_error_has_its_response(exc: errors.AloraserveError, status: int, code: str | None) -> None:
    reply = reply_for(exc)
    assert (reply.status, reply.body["error"]["code"]) == (status, code)
    assert reply.body["error"]["message"] == exc.message
    assert reply.body["error"]["param"] == exc.param


@pytest.mark.parametrize(
    "exc",
    [
        errors.SettingsError("redis_url is redis://:hunter2@host"),
        errors.InvalidAdapterError("/srv/hunter2"),
        errors.StartError("hunter2"),
        RuntimeError("hunter2"),
        KeyboardInterrupt("hunter2"),
    ],
)
def test_what_is_not_the_client_s_to_know_is_an_internal_error(exc: BaseException) -> None:
    reply = reply_for(exc)
    assert reply.status == 500
    assert "hunter2" not in json.dumps(reply.body)


def test_a_full_fleet_says_when_to_come_back() -> None:
    assert int(reply_for(errors.OverloadedError("full")).headers["Retry-After"]) >= 1


def test_every_error_class_has_a_response() -> None:
    for error_class in errors.AloraserveError.__subclasses__():
        assert 400 <= reply_for(error_class("x")).status < 600


@pytest.mark.parametrize("content", [[SECRET], [{"type": "text", "text": 1, "more": SECRET}], {"x": SECRET}])
def test_a_prompt_s_text_is_never_echoed(content: Any) -> None:
    body = {"model": "base", "messages": [{"role": "user", "content": content}]}
    with pytest.raises(errors.InvalidRequestError) as caught:
        parse_body(ChatRequest, json.dumps(body).encode())
    assert "patient" not in caught.value.message


def test_an_echoed_value_is_abbreviated() -> None:
    body = {"model": "base", "prompt": "x", "temperature": SECRET}
    with pytest.raises(errors.InvalidRequestError) as caught:
        parse_body(CompletionRequest, json.dumps(body).encode())
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (b"", "line 1"),
        (b'{"model": ', "character 10"),
        (b"[]", "JSON object"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"model": "a", "model": "b"}', "twice"),
        (b'{"temperature": NaN}', "NaN"),
        (b'{"temperature": -Infinity}', "Infinity"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"metadata": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "deeply"),
        (b" " * 1_000_001, "bytes"),
    ],
)
def test_a_body_that_is_not_a_request_is_refused_with_its_fault(raw: bytes, word: str) -> None:
    with pytest.raises(errors.InvalidRequestError, match=word):
        parse_body(ChatRequest, raw, 1_000_000)


def test_an_infinite_number_is_refused() -> None:
    with pytest.raises(errors.InvalidRequestError) as caught:
        parse_body(CompletionRequest, b'{"model": "m", "prompt": "x", "temperature": 1e999}')
    assert caught.value.param == "temperature"


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20)
values = st.recursive(scalars, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=8), v, max_size=4))
names = st.sampled_from(
    [*ChatRequest.__struct_fields__, *CompletionRequest.__struct_fields__, "tools", "\ud800", "<parts>"]
)
message = st.dictionaries(st.sampled_from(["role", "content", "name", "x"]), values | st.just("user"), max_size=4)
bodies = st.dictionaries(names, values | st.lists(message, max_size=3), max_size=8)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(body=bodies, model_class=st.sampled_from([ChatRequest, CompletionRequest]))
def test_any_json_is_a_request_or_a_client_error(body: dict[str, Any], model_class: Any) -> None:
    try:
        request = parse_body(model_class, json.dumps(body).encode())
    except errors.InvalidRequestError as exc:
        reply = reply_for(exc)
        assert reply.status == 400
        assert json.dumps(reply.body, ensure_ascii=False).encode()
        assert len(reply.body["error"]["message"]) < 600
    else:
        assert request.sampling().n >= 1


@given(raw=st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_client_error(raw: bytes) -> None:
    with pytest.raises(errors.InvalidRequestError):
        parse_body(ChatRequest, raw)
