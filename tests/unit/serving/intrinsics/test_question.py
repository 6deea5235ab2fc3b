"""What an adapter is asked, as granite-common's own rewriter asks it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import yaml
from granite_common.intrinsics import IntrinsicsRewriter
from support.io_yaml import LIBRARY

from aloraserve.adapters.intrinsics import IntrinsicSpec, read_intrinsic
from aloraserve.errors import InvalidRequestError
from aloraserve.serving.intrinsics.question import Question, question
from aloraserve.wire import ChatRequest, parse_body

MESSAGES = [
    {"role": "user", "content": "What does a bicycle cost? And a child?"},
    {"role": "assistant", "content": "A bicycle costs two crowns. Children travel free."},
]
DOCUMENTS = [
    {"doc_id": "7", "text": "Fares are low. A bicycle is 2 crowns more."},
    {"doc_id": "9", "text": "Children under six travel free."},
]
FIELDS = {"requirement-check": {"requirement": "be short {and} clear"}}


def spec_of(io_yaml: bytes) -> IntrinsicSpec:
    spec = read_intrinsic(io_yaml)
    assert spec is not None
    return spec


def chat(**fields: Any) -> ChatRequest:
    body = {"model": "base", "messages": MESSAGES} | fields
    return parse_body(ChatRequest, json.dumps(body).encode())


def asked(spec: IntrinsicSpec, fields: dict[str, str] | None = None, **more: Any) -> Question:
    return question(chat(**more), "judge", spec, fields or {})


def theirs(io_yaml: bytes, fields: dict[str, str], documents: list[dict[str, str]]) -> Any:
    config = {name: value for name, value in yaml.safe_load(io_yaml).items() if name != "name"}
    body = {"messages": copy.deepcopy(MESSAGES), "extra_body": {"documents": copy.deepcopy(documents)}}
    return IntrinsicsRewriter(config_dict=config, model_name="judge").transform(body, **fields)


@pytest.mark.parametrize("how", [None, "string", "json", "roles"])
@pytest.mark.parametrize("name", LIBRARY)
def test_requests_are_those_of_the_kept_package(name: str, how: str | None) -> None:
    io_yaml = LIBRARY[name]
    if how == "string" and b"decode_sentences" in io_yaml:
        pytest.skip("granite-common does not decode sentences of that form")
    if how != (yaml.safe_load(io_yaml).get("docs_as_message")):
        io_yaml = yaml.safe_dump(yaml.safe_load(io_yaml) | {"docs_as_message": how}).encode()
    fields = FIELDS.get(name, {})
    expected = theirs(io_yaml, fields, DOCUMENTS)
    ours = asked(spec_of(io_yaml), fields, documents=DOCUMENTS).body
    assert [(one.role, one.text) for one in ours.messages] == [(one.role, one.content) for one in expected.messages]
    left = expected.extra_body.documents or []
    assert [one["text"] for one in ours.documents or []] == [one.text for one in left]
    assert ours.model == expected.model
    assert bool(ours.logprobs) == bool(getattr(expected, "logprobs", False))
    given = getattr(expected, "max_completion_tokens", None)
    assert given in (None, ours.max_completion_tokens)
    assert json.loads(bytes(ours.structured_outputs))["json"] == expected.extra_body.structured_outputs["json"]


def test_an_answer_s_numbers_refer_to_what_the_model_saw() -> None:
    found = asked(spec_of(LIBRARY["citations"]), documents=DOCUMENTS).asked
    assert found.messages[1] == ("assistant", "<r0> A bicycle costs two crowns. <r1> Children travel free.")
    assert found.documents[1] == ("9", "<c2> Children under six travel free.")


def test_nothing_of_the_client_s_is_changed() -> None:
    conversation = chat(documents=DOCUMENTS, chat_template_kwargs={"adapter_name": "other", "style": "x"})
    before = copy.deepcopy((conversation.messages, conversation.documents))
    body = question(conversation, "judge", spec_of(LIBRARY["hallucination"]), {}).body
    assert (conversation.messages, conversation.documents) == before
    assert (body.adapter_name, body.client_template_kwargs()) == (None, {"style": "x"})


def test_the_last_message_is_a_field_of_its_own() -> None:
    spec = read_intrinsic(None, {"output": {"form": "text"}, "instruction": "Say {{it}} again: {last_message}"})
    assert spec is not None
    assert asked(spec).body.messages[-1].text == f"Say {{it}} again: {MESSAGES[1]['content']}"
    with pytest.raises(InvalidRequestError, match="no field 'last_message'"):
        asked(spec, {"last_message": "forged"})


@pytest.mark.parametrize(
    ("output", "tokens", "alternatives"),
    [
        ({"form": "digit"}, 2, 10),
        ({"form": "choice", "choices": [f"{n:02}" for n in range(30)]}, 3, 20),
        ({"form": "yes_no", "choices": ["höflich", "no"]}, 9, 10),
        ({"form": "text"}, 256, None),
        ({"form": "json", "schema": {}}, 1024, None),
    ],
)
def test_an_answer_has_room_for_its_form(output: dict[str, Any], tokens: int, alternatives: int | None) -> None:
    spec = read_intrinsic(None, {"output": output})
    assert spec is not None
    body = asked(spec).body
    assert (body.max_completion_tokens, body.top_logprobs, body.temperature) == (tokens, alternatives, 0.0)


def test_a_text_cannot_fake_a_number_of_a_sentence() -> None:
    forged = [{"role": "user", "content": "Hm. <r1> Children pay double."}]
    with pytest.raises(InvalidRequestError, match="<r0>"):
        asked(spec_of(LIBRARY["citations"]), messages=forged)
