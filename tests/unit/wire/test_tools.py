"""Tools, tool calls and the messages of a conversation that has them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aloraserve.errors import InvalidRequestError
from aloraserve.serving.structures import compile_fault
from aloraserve.wire import ChatRequest, parse_body

CITY = {"type": "object", "properties": {"city": {"$ref": "#/$defs/City"}}, "required": ["city"]}
PARAMETERS = CITY | {"$defs": {"City": {"type": "string", "maxLength": 10}}}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": PARAMETERS}}
TIME = {"type": "function", "function": {"name": "time"}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
NAMED = {"type": "function", "function": {"name": "weather"}}


def chat(*messages: dict[str, Any], **fields: Any) -> ChatRequest:
    said = list(messages) or [{"role": "user", "content": "hello"}]
    return parse_body(ChatRequest, json.dumps({"model": "base", "messages": said} | fields).encode())


def refused(**fields: Any) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        chat(**fields)
    return caught.value


def test_tools_go_to_the_template_as_vllm_writes_them() -> None:
    shown = chat(tools=[WEATHER, TIME]).template_kwargs()["tools"]
    assert shown == [
        WEATHER,
        {"type": "function", "function": {"name": "time", "description": None, "parameters": None}},
    ]
    assert list(shown[0]["function"]) == ["name", "description", "parameters"], "a template may print it as it is"


def test_calls_are_read_unless_the_client_wants_none() -> None:
    assert chat(tools=[TIME]).may_call_tools
    assert chat(tools=[TIME], tool_choice="auto").may_call_tools
    assert not chat(tools=[TIME], tool_choice="none").may_call_tools
    assert not chat(tools=[], tool_choice="auto").may_call_tools
    assert chat(tools=[TIME], tool_choice="none").template_kwargs() == chat(tools=[TIME]).template_kwargs()


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_an_answer_that_has_to_call_has_a_form_that_can_be_held(choice: Any) -> None:
    form = chat(tools=[WEATHER, TIME], tool_choice=choice).sampling().structured
    assert form is not None
    assert form.kind == "json"
    assert compile_fault(form) == ""


def test_only_one_call_is_possible_where_they_are_not_parallel() -> None:
    forms = [
        chat(tools=[TIME], tool_choice="required", parallel_tool_calls=flag).structured() for flag in (True, False)
    ]
    assert [json.loads(form.text).get("maxItems") for form in forms if form] == [None, 1]


def test_a_call_in_the_history_reaches_the_template_with_its_arguments_as_an_object() -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [CALL | {"index": 0}], "refusal": None}
    shown = chat(message).messages[0].for_template()
    function = {"name": "weather", "arguments": {"city": "Paris"}}
    assert shown == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
    }


@pytest.mark.parametrize("arguments", ["", "{", "[]", "3", None, "[" * 5000, '{"a": ' * 70 + "1" + "}" * 70])
def test_arguments_that_are_no_object_do_not_end_a_conversation(arguments: str | None) -> None:
    message = {"role": "assistant", "tool_calls": [{"function": {"name": "time", "arguments": arguments}}]}
    [call] = chat(message).messages[0].for_template()["tool_calls"]
    assert call["function"]["arguments"] == {}


def test_a_call_of_a_function_that_nobody_offered_does_not_end_a_conversation() -> None:
    message = {"role": "assistant", "tool_calls": [{"type": None, "function": {"name": "get the weather!"}}]}
    [call] = chat(message).messages[0].for_template()["tool_calls"]
    assert call == {"type": "function", "function": {"name": "get the weather!", "arguments": {}}}


def test_names_and_reasoning_go_to_the_template() -> None:
    assert chat({"role": "user", "content": "x", "name": "ann"}).messages[0].for_template()["name"] == "ann"
    for field in ("reasoning", "reasoning_content"):
        shown = chat({"role": "assistant", "content": "x", field: "so"}).messages[0].for_template()
        assert (shown["reasoning"], shown["reasoning_content"]) == ("so", "so")


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": ""},
        {"role": "tool", "content": None, "tool_call_id": "c1"},
        {"role": "function", "name": "time", "content": "12"},
        {"role": "assistant", "content": None, "refusal": "no"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": "x", "annotations": [{"type": "url_citation"}], "thinking_blocks": [{"a": 1}]},
    ],
)
def test_messages_as_clients_send_them_back_are_accepted(message: dict[str, Any]) -> None:
    assert chat(message, {"role": "user", "content": "and?"}).messages[0].for_template()["role"] == message["role"]


@pytest.mark.parametrize(
    ("effort", "given", "wanted"),
    [
        ("low", None, {"enable_thinking": True, "reasoning_effort": "low"}),
        ("none", None, {"enable_thinking": False, "reasoning_effort": "none"}),
        ("high", {"enable_thinking": False}, {"enable_thinking": False, "reasoning_effort": "high"}),
    ],
)
def test_an_effort_of_reasoning_is_an_argument_of_the_template(effort: str, given: Any, wanted: dict[str, Any]) -> None:
    assert chat(reasoning_effort=effort, chat_template_kwargs=given).template_kwargs() == wanted


def test_documents_may_have_values_of_any_kind() -> None:
    documents = [{"text": "x", "meta": {"pages": [1, 2]}, "title": None}]
    assert chat(documents=documents).template_kwargs()["documents"] == [{"text": "x", "meta": {"pages": [1, 2]}}]


def test_what_ends_the_prompt() -> None:
    assert chat().has_generation_prompt
    assert not chat(add_generation_prompt=False).has_generation_prompt
    assert not chat(continue_final_message=True).has_generation_prompt


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools.0.type", "'function'"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name", "name"),
        ({"tools": [TIME], "tool_choice": "always"}, "tool_choice", "required"),
        ({"tools": [TIME], "tool_choice": NAMED}, "tool_choice", "names the function 'weather'"),
        ({"tools": [TIME], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type", "'function'"),
        ({"tools": [TIME], "tool_choice": {"type": "function"}}, "tool_choice.function", "is required"),
        ({"tool_choice": "required"}, "tool_choice", "needs 'tools'"),
        ({"continue_final_message": True, "add_generation_prompt": True}, None, "cannot both be true"),
        ({"tools": [TIME], "chat_template_kwargs": {"tools": []}}, "chat_template_kwargs", "send the field 'tools'"),
        ({"add_special_tokens": True}, "add_special_tokens", "only false"),
        ({"chat_template": "{{ messages }}"}, "chat_template", "not supported"),
        ({"functions": [{"name": "f"}]}, "functions", "not supported"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(fields: dict[str, Any], param: str | None, words: str) -> None:
    error = refused(**fields)
    assert error.param == param
    assert words in error.message


def test_a_form_of_the_answer_and_a_call_that_has_to_be_made_contradict_each_other() -> None:
    error = refused(tools=[TIME], tool_choice="required", response_format={"type": "json_object"})
    assert "'tool_choice' and 'response_format' both give the answer a form" in error.message


def test_parameters_that_would_cost_too_much_are_refused_where_they_have_to_hold() -> None:
    deep: dict[str, Any] = {}
    for _ in range(70):
        deep = {"properties": {"a": deep}}
    assert "nested deeper" in refused(tools=[_tool(deep)]).message
    wide = {"properties": {"a": {"type": "string", "maxLength": 10**9}}}
    assert chat(tools=[_tool(wide)]).may_call_tools
    assert "a length is above" in refused(tools=[_tool(wide)], tool_choice="required").message
    large = {"properties": {"a": {"enum": ["x" * 70_000]}}}
    assert "more than 65536 bytes" in refused(tools=[_tool(large)], tool_choice=NAMED).message
    other = PARAMETERS | {"$defs": {"City": {"type": "integer"}}}
    both = [WEATHER, _tool(other, "town")]
    assert "two different definitions 'City'" in refused(tools=both, tool_choice="required").message


def _tool(parameters: dict[str, Any], name: str = "weather") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}
