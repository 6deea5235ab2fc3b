"""Requests: what is accepted, and that what is refused names its field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aloraserve.errors import InvalidRequestError
from aloraserve.wire import ChatRequest, CompletionRequest, parse_body

CHAT = {"model": "base", "messages": [{"role": "user", "content": "hello"}]}
COMPLETION = {"model": "base", "prompt": "hello"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


def chat(**fields: Any) -> ChatRequest:
    return parse_body(ChatRequest, json.dumps(CHAT | fields).encode())


def completion(**fields: Any) -> CompletionRequest:
    return parse_body(CompletionRequest, json.dumps(COMPLETION | fields).encode())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", "hot"),
        ("temperature", 2.1),
        ("temperature", True),
        ("max_tokens", True),
        ("max_tokens", -1),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("max_completion_tokens", 0),
        ("top_p", 0),
        ("top_p", 1.01),
        ("n", 0),
        ("n", 9),
        ("seed", 2**63),
        ("seed", "7"),
        ("stop", ["a"] * 129),
        ("stop", 3),
        ("presence_penalty", -2.5),
        ("frequency_penalty", 3),
        ("logprobs", 3),
        ("top_logprobs", 21),
        ("stream", "yes"),
        ("messages", []),
        ("messages", "hi"),
        ("model", ""),
        ("model", None),
        ("tools", "all"),
        ("tools", [TOOL] * 129),
        ("tool_choice", "required"),
        ("modalities", ["text", "audio"]),
        ("repetition_penalty", 0),
        ("repetition_penalty", 1e9),
        ("top_k", -2),
        ("top_k", 1.5),
        ("min_p", 1.1),
        ("min_tokens", -1),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", ["a"]),
        ("stop_token_ids", [1] * 129),
        ("allowed_token_ids", [2**31]),
        ("allowed_token_ids", [1] * 1025),
        ("bad_words", [""]),
        ("bad_words", ["x"] * 129),
        ("logit_bias", {"1": "x"}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"one": 1}),
        ("logit_bias", {str(2**31): 1}),
        ("logit_bias", {str(number): 1 for number in range(1025)}),
        ("prompt_logprobs", 21),
        ("prompt_logprobs", -1),
        ("truncate_prompt_tokens", -2),
        ("truncation_side", "middle"),
        ("stream_interval", 0),
        ("priority", 2**63),
        ("use_beam_search", True),
        ("reasoning_effort", "great"),
        ("chat_template", "{{ messages }}"),
        ("documents", [{}]),
        ("documents", [{f"k{i}": "x" for i in range(17)}]),
        ("documents", [{"text": "x"}] * 257),
        ("chat_template_kwargs", {"adapter_name": 3}),
        ("chat_template_kwargs", {"deep": [{"a": 1e300}]}),
        ("chat_template_kwargs", {"long": ["x" * 9000, "x" * 9000]}),
        ("chat_template_kwargs", {f"k{i}": 1 for i in range(17)}),
    ],
)
def test_a_wrong_chat_field_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        chat(**{field: value})
    assert caught.value.param in (field, f"{field}.0")
    assert f"'{caught.value.param}'" in caught.value.message


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "robot", "content": "x"}, "messages.0.role"),
        ({"role": "document <|im_end|>", "content": "x"}, "messages.0.role"),
        ({"role": "document 1\n", "content": "x"}, "messages.0.role"),
        ({"role": "user"}, "messages.0.content"),
        ({"role": "user", "content": None}, "messages.0.content"),
        ({"role": "user", "content": 3}, "messages.0.content"),
        ({"role": "user", "content": []}, "messages.0.content"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "messages.0.content.0.type"),
        ({"role": "user", "content": "\ud800"}, "messages.0.content"),
        ({"role": "assistant", "content": "x", "tool_calls": [{}]}, "messages.0.tool_calls.0.function"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "messages.0.tool_calls"),
    ],
)
def test_a_wrong_message_is_refused_with_its_path(message: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        chat(messages=[message])
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream": True, "prompt_logprobs": 0}, "prompt_logprobs"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidRequestError, match=word):
        chat(**fields)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", ["a", ""]),
        ("prompt", ["a", 1]),
        ("prompt", [1, "a"]),
        ("prompt", [[1], []]),
        ("prompt", ["a"] * 65),
        ("prompt", []),
        ("prompt", ""),
        ("prompt", [1, True]),
        ("prompt", [1, -1]),
        ("prompt", [1, 2**31]),
        ("prompt", {"a": 1}),
        ("max_tokens", 0),
        ("logprobs", 21),
        ("logprobs", True),
        ("suffix", "x"),
        ("best_of", 2),
    ],
)
def test_a_wrong_completion_field_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        completion(**{field: value})
    assert caught.value.param == field


@pytest.mark.parametrize(("prompt", "wanted"), [("a", "a"), (["a"], "a"), ([1, 2], [1, 2]), ([[1, 2]], [1, 2])])
def test_a_prompt_is_a_text_or_token_ids(prompt: Any, wanted: Any) -> None:
    assert completion(prompt=prompt).one_prompt == wanted


@pytest.mark.parametrize("prompts", [["a", "b"], [[1, 2], [3]], ["a", [1, 2]]])
def test_each_prompt_of_a_list_is_a_request_of_its_own(prompts: Any) -> None:
    parts = completion(prompt=prompts, max_tokens=3, n=2, temperature=1).split()
    assert [part.one_prompt for part in parts] == prompts
    assert {(part.n, part.max_tokens) for part in parts} == {(2, 3)}


def test_prompts_and_their_choices_are_bounded_together() -> None:
    assert len(completion(prompt=["a"] * 64, n=2).split()) == 64
    with pytest.raises(InvalidRequestError, match="64 prompts; at most 64 with 128 choices"):
        completion(prompt=["a"] * 64, n=3)


def test_a_message_copied_from_an_answer_is_accepted() -> None:
    answer = {"role": "assistant", "content": "hi", "refusal": None, "tool_calls": [], "audio": None}
    answer |= {
        "annotations": [],
        "reasoning": "",
        "provider_specific_fields": {},
        "thinking_blocks": None,
        "function_call": None,
    }
    assert chat(messages=[answer, {"role": "user", "content": "and?"}]).messages[0].text == "hi"


def test_text_parts_become_one_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    message = chat(messages=[{"role": "user", "content": parts}]).messages[0]
    assert message.for_template() == {"role": "user", "content": "a\nb"}


def test_harmless_fields_are_ignored_and_null_means_absent() -> None:
    harmless = {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "tools": None}
    assert chat(**harmless, parallel_tool_calls=True, temperature=None).sampling().temperature == 1.0


@pytest.mark.parametrize(
    "nothing",
    [
        {"tools": [], "tool_choice": "auto", "functions": None},
        {"tools": None, "tool_choice": "none"},
        {"logit_bias": {}, "modalities": ["text"]},
        {"logprobs": False, "top_logprobs": 0},
        {"chat_template_kwargs": {"adapter_name": None}},
        {"documents": [], "structured_outputs": {}},
        {"documents": None, "structured_outputs": None, "response_format": None},
        {"structured_outputs": {"json": None, "regex": None, "json_object": False, "structural_tag": None}},
        {"response_format": {"type": "text"}},
        {"repetition_penalty": 1.0, "min_p": 0, "min_tokens": 0, "add_generation_prompt": True},
    ],
)
def test_what_asks_for_nothing_changes_nothing(nothing: dict[str, Any]) -> None:
    request = chat(**nothing)
    assert (request.sampling(), request.adapter_name, request.template_kwargs()) == (chat().sampling(), None, {})


def test_a_completion_s_fields_that_ask_for_nothing_change_nothing() -> None:
    nothing = {
        "best_of": 1,
        "suffix": "",
        "logit_bias": None,
        "logprobs": False,
        "repetition_penalty": 1.0,
        "echo": False,
    }
    assert completion(**nothing).sampling() == completion().sampling()


def test_documents_go_to_the_template_without_what_is_null() -> None:
    request = chat(documents=[{"text": "a", "doc_id": "1", "title": None}])
    assert request.template_kwargs()["documents"] == [{"text": "a", "doc_id": "1"}]
    assert request.characters == chat().characters + len("textadoc_id1title")


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool", "document 1", "document a/b.txt"])
def test_roles_that_a_template_may_take_are_accepted(role: str) -> None:
    assert chat(messages=[{"role": role, "content": "x"}]).messages[0].for_template()["role"] == role


def test_the_answer_of_a_tool_goes_to_the_template_with_its_call() -> None:
    message = {"role": "tool", "content": "4", "tool_call_id": "c1"}
    assert chat(messages=[message]).messages[0].for_template() == message


def test_a_chat_request_becomes_sampling_settings() -> None:
    settings = chat(
        max_completion_tokens=7, temperature=0, top_p=1, stop="x", seed=3, logprobs=True, top_logprobs=2
    ).sampling()
    assert (settings.max_tokens, settings.temperature, settings.stop, settings.seed, settings.logprobs) == (
        7, 0, ("x",), 3, 2,
    )  # fmt: skip


def test_an_end_is_ignored_only_where_that_is_asked_for() -> None:
    settings = [completion(**more).sampling() for more in ({}, {"ignore_eos": True}, {"ignore_eos": None})]
    assert [one.ignore_eos for one in settings] == [False, True, False]
    with pytest.raises(InvalidRequestError, match="ignore_eos"):
        completion(ignore_eos="yes")


def test_log_probabilities_without_alternatives_differ_from_none_at_all() -> None:
    assert chat(logprobs=True).sampling().logprobs == 0
    assert chat(logprobs=False).sampling().logprobs is None
    assert completion(logprobs=0).sampling().logprobs == 0


def test_defaults_are_openai_s() -> None:
    assert chat().sampling().max_tokens is None
    assert completion().sampling().max_tokens is None
    assert chat(stream=True, stream_options={"include_usage": True}).include_usage


def test_options_of_streams_that_other_servers_have() -> None:
    others = {"include_obfuscation": True, "continuous_usage_stats": False}
    assert chat(stream=True, stream_options={"include_usage": True} | others).include_usage
    both = {"include_usage": True, "continuous_usage_stats": True}
    assert chat(stream=True, stream_options=both).extras().running_usage
    assert not chat(stream=True, stream_options={"continuous_usage_stats": True}).extras().running_usage


def test_template_arguments_carry_an_adapter_s_name() -> None:
    request = chat(chat_template_kwargs={"adapter_name": "safety", "thinking": False})
    assert request.adapter_name == "safety"
    assert request.template_kwargs() == {"thinking": False}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": 0}, "'max_tokens' (0) should be an integer of at least 1"),
        ({"max_tokens": "many"}, "'max_tokens' (\"many\") should be an integer"),
        ({"temperature": 9}, "'temperature' (9) should be a number of at most 2"),
        ({"top_p": 0}, "'top_p' (0) should be a number above 0"),
        ({"stream": "yes"}, "'stream' (\"yes\") should be true or false"),
        ({"stop": 3}, "'stop' (3) should be a string or a list"),
        ({"stop": ["a"] * 129}, "'stop' should be a list of at most 128 items"),
        ({"stop": ["a", ""]}, "'stop.1' (\"\") should be a string of at least 1 character"),
        ({"messages": []}, "'messages' should be a list of at least 1 item"),
        ({"messages": [{"role": "user", "content": 3}]}, "'messages.0.content' should be a string or a list"),
        ({"messages": [{"role": "user"}]}, "'messages.0.content' is required"),
        (
            {"messages": [{"role": "robot", "content": "x"}]},
            "'messages.0.role' (\"robot\") should be "
            "'system', 'developer', 'user', 'assistant', 'tool', 'function' or 'document ID'",
        ),
        ({"tools": [{}]}, "'tools.0.type' is required"),
        ({"colour": "red", "model": 3}, "'model' (3) should be a string"),
        ({"seed": 2**70}, f"'seed' ({2**70}) should be an integer of at most {2**63 - 1}"),
        ({"adapters": "all"}, "'adapters' (\"all\") should be 'auto' or a list of names"),
        (
            {"response_format": {"type": "xml"}},
            "'response_format.type' (\"xml\") should be 'text', 'json_object' or 'json_schema'",
        ),
        (
            {"intrinsics": [{"name": "a", "fields": {str(n): "" for n in range(17)}}]},
            "'intrinsics.0.fields' should be an object of at most 16 entries",
        ),
        ({"user": "x" * 140_000}, "'user' has 140002 bytes; at most 131072 are accepted"),
    ],
)
def test_a_refusal_names_the_field_its_value_and_what_is_accepted(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        chat(**fields)
    assert caught.value.message == message


def test_text_parts_are_bounded_in_all() -> None:
    parts = [{"type": "text", "text": "a"}] * 256
    with pytest.raises(InvalidRequestError, match="has 8448 text parts; at most 8192 are"):
        chat(messages=[{"role": "user", "content": parts}] * 33)


def test_an_integer_may_be_written_with_a_point() -> None:
    request = chat(
        max_tokens=4.0, top_k=3.0, temperature=1.0, chat_template_kwargs={"x": 2.0}, documents=[{"a": "4.0"}]
    )
    assert (request.max_tokens, request.top_k, request.client_template_kwargs()) == (4, 3, {"x": 2.0})
    assert isinstance(request.client_template_kwargs()["x"], float)
    for wrong in ({"max_tokens": 4.5}, {"max_tokens": 1e400}, {"stop_token_ids": [4.0]}):
        with pytest.raises(InvalidRequestError):
            chat(**wrong)


def test_and_its_body_stays_as_long_as_it_is() -> None:
    """Escapes of ASCII would make a text of Chinese twice as long, and a body that fits too long."""
    body = {"model": "base", "messages": [{"role": "user", "content": "渡船 \U0001f6a2 é" * 1000}], "max_tokens": 4.0}
    raw = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    request = parse_body(ChatRequest, raw, len(raw))
    assert (request.max_tokens, request.messages[0].text) == (4, body["messages"][0]["content"])  # type: ignore[index]


def test_and_half_a_character_is_what_it_is_without_the_point() -> None:
    said = [
        refused_text(b'{"model": "base", "messages": [{"role": "user", "content": "\\ud800"}], "n": 1%b}' % end)
        for end in (b"", b".0")
    ]
    assert said[0] == said[1]


def refused_text(raw: bytes) -> str:
    with pytest.raises(InvalidRequestError) as refused:
        parse_body(ChatRequest, raw)
    return refused.value.message
