"""The page of request fields is what the models are; OpenAI's fields are all in it, each with its treatment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from msgspec import Struct
from openai.types import completion_create_params
from openai.types.chat import ChatCompletionMessageParam
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from aloraserve.errors import InvalidRequestError
from aloraserve.wire import ChatRequest, CompletionRequest, parse_body
from aloraserve.wire.field_table import REQUESTS, field_names, page, treatment
from aloraserve.wire.intrinsics import IntrinsicsRequest
from aloraserve.wire.messages import ChatMessage
from aloraserve.wire.response_request import ResponsesRequest
from aloraserve.wire.tokenize import DetokenizeRequest

ROOT = Path(__file__).parents[3]
CHAT: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "x"}]}
COMPLETION: dict[str, Any] = {"model": "base", "prompt": "x"}
BASES: dict[str, dict[str, Any]] = {
    "chat": CHAT,
    "completions": COMPLETION,
    "responses": {"model": "base", "input": "x"},
    "tokenize": {"messages": CHAT["messages"]},
    "detokenize": {"tokens": [1]},
    "intrinsics": {"messages": CHAT["messages"], "intrinsics": ["safety"]},
}
FIELDS = [
    (endpoint, name) for endpoint, kind in REQUESTS.items() for name in field_names(kind) if name not in BASES[endpoint]
]


def test_the_page_is_up_to_date() -> None:
    shown = (ROOT / "docs" / "reference" / "openai-fields.md").read_text("utf-8")
    assert shown == page(), "make docs-fields"


@pytest.mark.parametrize(
    ("kind", "theirs"),
    [
        (ChatRequest, chat_create_params.CompletionCreateParamsBase),
        (CompletionRequest, completion_create_params.CompletionCreateParamsBase),
        (ResponsesRequest, response_create_params.ResponseCreateParamsBase),
        *((ChatMessage, message) for message in get_args(ChatCompletionMessageParam)),
    ],
)
def test_every_field_of_openai_is_known(kind: type[Struct], theirs: type[Any]) -> None:
    names = set(theirs.__annotations__) | ({"stream"} if kind is not ChatMessage else set())
    assert names <= set(field_names(kind))


@pytest.mark.parametrize(("endpoint", "name"), FIELDS)
def test_what_asks_for_nothing_is_accepted_for_every_field(endpoint: str, name: str) -> None:
    kind, base = REQUESTS[endpoint], BASES[endpoint]
    plain = asked(parse_body(kind, json.dumps(base).encode()))
    for value in [None, *_nothing(kind, name)]:
        request = parse_body(kind, json.dumps(base | {name: value}).encode())
        assert asked(request) == plain
        assert request.ignored == ()


def asked(request: Any) -> Any:
    """Return what a request asks to have generated, or of which tokens."""
    if isinstance(request, DetokenizeRequest):
        return request.tokens, request.names("base").model
    if isinstance(request, IntrinsicsRequest):
        return [item.name for item in request.items], request.conversation("base").sampling()
    chat = request.chat() if isinstance(request, ResponsesRequest) else request
    return chat.sampling()


@pytest.mark.parametrize(
    ("endpoint", "name"), [each for each in FIELDS if treatment(REQUESTS[each[0]], each[1])[0] == "refused"]
)
def test_what_is_not_served_is_refused_by_name(endpoint: str, name: str) -> None:
    for value in (True, 2, "x", ["x"], {"x": 1}):
        if value in _nothing(REQUESTS[endpoint], name):
            continue
        with pytest.raises(InvalidRequestError, match=f"'{name}'"):
            parse_body(REQUESTS[endpoint], json.dumps(BASES[endpoint] | {name: value}).encode())


def _nothing(kind: type[Any], name: str) -> list[Any]:
    """Return the values of a field that ask for nothing, beside null."""
    how, accepted = treatment(kind, name)
    if how == "ignored":
        return []
    if how == "served":
        return _empty(accepted)
    only = accepted.strip("`").replace("'", '"')
    return [json.loads(value) for value in only.split(" or ")] if only else ["", [], {}]


def _empty(accepted: str) -> list[Any]:
    """Return the empty value of a served field's type, where it has one."""
    kinds = [("a list", []), ("an object", {})]
    return [value for word, value in kinds if word in accepted.split(":")[0].split(", or ")]
