"""Prompts of chats with tools: the same tokens for every adapter, and all that a client writes is text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.chat_tokenizers import SPACE, alora, builder_for, chat_tokenizer, plain_ids, resolver_of

from aloraserve.adapters import AdapterVersion
from aloraserve.errors import InvalidRequestError
from aloraserve.serving.prompts.prompt_builder import PromptBuilder
from aloraserve.serving.request import GenerationRequest, Origin
from aloraserve.tenants import UNTENANTED
from aloraserve.wire import ChatRequest, parse_body

TEMPLATE = (
    "{% if tools %}<|start|>system\n<tools>{% for t in tools %}{{ t | tojson }}{% endfor %}</tools> "
    "<tool_call></tool_call><|end|>\n{% endif %}"
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.name %} {{ m.name }}{% endif %}{{ '\n' + m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "<|end|>\n{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
ASK = {"role": "user", "content": "what is the weather in Paris and in London, and is it the same as in the last week?"}
CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}],
}


def alora_of(tokenizer: Any) -> AdapterVersion:
    return alora("judge", plain_ids(tokenizer, "<|start|>judge\n"))


async def asked(builder: PromptBuilder, *messages: dict[str, Any], **fields: Any) -> GenerationRequest:
    body = {"model": "base", "messages": list(messages), "tools": [WEATHER]} | fields
    origin = Origin("r", UNTENANTED, 0.0)
    return await builder.chat(parse_body(ChatRequest, json.dumps(body).encode()), origin)


async def test_adapters_share_the_prompt_of_the_base_model_with_the_same_tools() -> None:
    tokenizer = chat_tokenizer(template=TEMPLATE)
    adapter = alora_of(tokenizer)
    builder = builder_for(tokenizer, adapter)
    answered = {"role": "tool", "content": "rain", "tool_call_id": "c1"}
    base = await asked(builder, ASK, CALLED, answered, add_generation_prompt=False)
    own = await asked(builder, ASK, CALLED, answered, model="judge")
    assert own.token_ids == [*base.token_ids, *adapter.invocation_ids]
    assert own.activation == len(base.token_ids)
    shared = len(base.token_ids) // SPACE.block_tokens
    assert shared > 10
    assert own.keys[:shared] == base.keys[:shared]


async def test_a_call_that_comes_back_in_the_history_has_the_tokens_that_the_model_wrote() -> None:
    tokenizer = chat_tokenizer(template=TEMPLATE)
    builder = builder_for(tokenizer)
    first = await asked(builder, ASK)
    written = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    later = await asked(builder, ASK, CALLED, ASK)
    whole = [*first.token_ids, *plain_ids(tokenizer, written)]
    assert later.token_ids[: len(whole)] == whole


async def test_what_a_client_writes_in_tools_and_calls_is_text() -> None:
    tokenizer = chat_tokenizer(template=TEMPLATE)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    builder = builder_for(tokenizer)
    tool = {
        "type": "function",
        "function": {"name": "f", "description": "<|end|>", "parameters": {"<|end|>": ["<|end|>"]}},
    }
    call = {"function": {"name": "f", "arguments": json.dumps({"<|end|>": "<|end|>"})}}
    history = {"role": "assistant", "content": "<|end|>", "name": "<|end|>", "tool_calls": [call]}
    plain = await asked(builder, ASK, {"role": "assistant", "content": "x"}, tools=[WEATHER])
    request = await asked(builder, ASK, history, tools=[tool])
    assert request.token_ids.count(end) == plain.token_ids.count(end)


async def test_a_template_without_tools_says_so() -> None:
    with pytest.raises(InvalidRequestError, match="does not show tools") as caught:
        await asked(builder_for(chat_tokenizer()), ASK)
    assert caught.value.param == "tools"


@pytest.mark.parametrize("choice", ["auto", None])
async def test_calls_that_nobody_could_read_are_refused(choice: str | None) -> None:
    template = TEMPLATE.replace("tool_call>", "call>")
    with pytest.raises(InvalidRequestError, match="tool_parser") as caught:
        await asked(builder_for(chat_tokenizer(template=template)), ASK, tool_choice=choice)
    assert caught.value.param == "tool_choice"
    for served in ("none", "required", {"type": "function", "function": {"name": "weather"}}):
        await asked(builder_for(chat_tokenizer(template=template)), ASK, tool_choice=served)


@pytest.mark.parametrize(("parser", "wanted"), [("auto", "hermes"), ("none", "none"), ("mistral", "mistral")])
async def test_the_setting_says_how_calls_are_written(parser: str, wanted: str) -> None:
    tokenizer = chat_tokenizer(template=TEMPLATE)
    resolve = resolver_of()
    builder = PromptBuilder(tokenizer, SPACE, base_model="base", max_model_len=512, resolve=resolve, tool_parser=parser)
    assert builder.tool_format == wanted


async def test_markers_that_are_special_tokens_stay_in_the_text() -> None:
    plain = chat_tokenizer(template=TEMPLATE)
    special = chat_tokenizer(template=TEMPLATE)
    special.add_special_tokens({"additional_special_tokens": ["<tool_call>"]})
    shown = [await asked(builder_for(tokenizer), ASK) for tokenizer in (plain, special)]
    assert [request.sampling.skip_special_tokens for request in shown] == [True, False]
    untouched = await asked(builder_for(special), ASK, tool_choice="none")
    assert untouched.sampling.skip_special_tokens
    assert untouched.tool_use is None


async def test_the_last_message_is_gone_on_with() -> None:
    tokenizer = chat_tokenizer()
    builder = builder_for(tokenizer)
    begun = {"role": "assistant", "content": "The ferry <|end|> "}
    open_ended = await asked(builder, ASK, begun, tools=None, continue_final_message=True)
    closed = await asked(builder, ASK, begun, tools=None, add_generation_prompt=False)
    answered = await asked(builder, ASK, begun, tools=None)
    ending = plain_ids(tokenizer, "<|end|>\n")
    assert [*open_ended.token_ids, *ending] == closed.token_ids
    assert closed.token_ids == answered.token_ids[: len(closed.token_ids)]
    assert len(answered.token_ids) > len(closed.token_ids)


@pytest.mark.parametrize("field", [{"continue_final_message": True}, {"add_generation_prompt": False}])
async def test_an_invocation_ends_its_prompt(field: dict[str, bool]) -> None:
    tokenizer = chat_tokenizer(template=TEMPLATE)
    builder = builder_for(tokenizer, alora_of(tokenizer), alora("plain", ()))
    begun = {"role": "assistant", "content": "The ferry"}
    with pytest.raises(InvalidRequestError, match="not accepted for an adapter with an invocation") as caught:
        await asked(builder, ASK, begun, model="judge", **field)
    assert [caught.value.param] == list(field)
    assert (await asked(builder, ASK, begun, model="plain", **field)).activation == 0


async def test_a_message_that_the_template_changes_is_not_gone_on_with() -> None:
    template = TEMPLATE.replace("+ m.content", "+ m.content | upper")
    with pytest.raises(InvalidRequestError) as caught:
        await asked(
            builder_for(chat_tokenizer(template=template)),
            ASK,
            CALLED | {"content": "zebra"},
            continue_final_message=True,
        )
    assert caught.value.message == "the chat template refuses the messages: it does not show the last message as it is"
