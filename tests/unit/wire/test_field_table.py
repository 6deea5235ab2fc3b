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

from aloraserve.wire import ChatRequest, CompletionRequest, parse_body
from aloraserve.wire.field_table import field_names, page, treatment
from aloraserve.wire.messages import ChatMessage

ROOT = Path(__file__).parents[3]
CHAT: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "x"}]}
COMPLETION: dict[str, Any] = {"model": "base", "prompt": "x"}
REQUESTS: list[tuple[type[Any], dict[str, Any]]] = [(ChatRequest, CHAT), (CompletionRequest, COMPLETION)]
FIELDS = [(kind, base, name) for kind, base in REQUESTS for name in field_names(kind) if name not in base]


def test_the_page_is_up_to_date() -> None:
    shown = (ROOT / "docs" / "reference" / "openai-fields.md").read_text("utf-8")
    assert shown == page(), "make docs-fields"


@pytest.mark.parametrize(
    ("kind", "theirs"),
    [
        (ChatRequest, chat_create_params.CompletionCreateParamsBase),
        (CompletionRequest, completion_create_params.CompletionCreateParamsBase),
        *((ChatMessage, message) for message in get_args(ChatCompletionMessageParam)),
    ],
)
def test_every_field_of_openai_is_known(kind: type[Struct], theirs: type[Any]) -> None:
    names = set(theirs.__annotations__) | ({"stream"} if kind is not ChatMessage else set())
    assert names <= set(field_names(kind))


@pytest.mark.parametrize(("kind", "base", "name"), FIELDS, ids=[f"{kind.__name__}-{name}" for kind, _, name in FIELDS])
def test_what_asks_for_nothing_is_accepted_for_every_field(kind: type[Any], base: dict[str, Any], name: str) -> None:
    plain = parse_body(kind, json.dumps(base).encode()).sampling()
    for value in [None, *_nothing(kind, name)]:
        request = parse_body(kind, json.dumps(base | {name: value}).encode())
        assert request.sampling() == plain
        assert request.ignored == ()


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
