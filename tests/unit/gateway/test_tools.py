"""Tools over a scripted engine, as OpenAI's own client sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pydantic
import pytest
from support.grpc_caller import served
from support.intrinsic_path import ADAPTERS
from support.scripted_chat import CALL, PARAMETERS, Script, http_client, scripted_gateway

from aloraserve.adapters import StaticRegistry
from aloraserve.serving.engine_messages import EngineChunk, TokenLogprob, TokenLogprobs
from aloraserve.v1.chat_pb2 import ChatRequest, ChatResponse, ChatStreamResponse
from aloraserve.wire.protobuf import message_of
from aloraserve_services.gateway.deployment import Gateway

MESSAGES: list[Any] = [{"role": "user", "content": "weather in Paris?"}]
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
SECOND = CALL.replace("Paris", "Rome")


@pytest.fixture
def adapters() -> StaticRegistry:
    return StaticRegistry(ADAPTERS, base_names=["base"])


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    return Script(monkeypatch)


@pytest.fixture
def gateway(open_gateway: Callable[..., Gateway], script: Script, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    return scripted_gateway(open_gateway, monkeypatch)


@pytest.fixture
def client(gateway: Gateway) -> openai.AsyncOpenAI:
    http = http_client(gateway)
    return openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="none", http_client=http, max_retries=0)


async def test_a_whole_answer_has_its_calls(client: openai.AsyncOpenAI, script: Script) -> None:
    script.says(f"Let me see.\n{CALL}\n{SECOND}")
    answer = await client.chat.completions.create(model="base", messages=MESSAGES, tools=[TOOL])
    [choice] = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me see.\n")
    calls = choice.message.tool_calls or []
    assert [(call.type, call.function.name, call.function.arguments) for call in calls] == [
        ("function", "weather", '{"city": "Paris"}'),
        ("function", "weather", '{"city": "Rome"}'),
    ]
    assert len({call.id for call in calls}) == 2
    assert script.prompt(0) == "weather;u:weather in Paris?\na:"


async def test_a_streamed_answer_adds_up_to_the_same(client: openai.AsyncOpenAI, script: Script) -> None:
    script.says(*f"Let me see.\n{CALL}\n{SECOND}")
    async with client.chat.completions.stream(model="base", messages=MESSAGES, tools=[TOOL]) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_completion()
    assert kinds.count("tool_calls.function.arguments.done") == 2
    assert kinds.count("tool_calls.function.arguments.delta") > 10
    [choice] = final.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me see.\n")
    calls = choice.message.tool_calls or []
    assert [call.function.arguments for call in calls] == ['{"city": "Paris"}', '{"city": "Rome"}']


async def test_the_first_addition_to_a_call_has_its_id_and_name(client: openai.AsyncOpenAI, script: Script) -> None:
    script.says(CALL[:30], CALL[30:])
    stream = await client.chat.completions.create(model="base", messages=MESSAGES, tools=[TOOL], stream=True)
    deltas = [chunk.choices[0].delta async for chunk in stream]
    additions = [call for delta in deltas for call in delta.tool_calls or []]
    assert [(call.index, bool(call.id), call.function.name if call.function else None) for call in additions] == [
        (0, True, "weather"),
        (0, False, None),
    ]
    assert [delta.content for delta in deltas] == ["", None, None]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_without_a_call_is_text(client: openai.AsyncOpenAI, script: Script, stream: bool) -> None:
    script.says("It is <tool", " or so")
    request: dict[str, Any] = {"model": "base", "messages": MESSAGES, "tools": [TOOL]}
    if stream:
        async with client.chat.completions.stream(**request) as events:
            choice = (await events.get_final_completion()).choices[0]
    else:
        choice = (await client.chat.completions.create(**request)).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("It is <tool or so", "stop")
    assert not choice.message.tool_calls


async def test_a_call_that_was_cut_short_says_so(client: openai.AsyncOpenAI, script: Script) -> None:
    script.says(CALL[:60], reason="length")
    answer = await client.chat.completions.create(model="base", messages=MESSAGES, tools=[TOOL])
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.tool_calls


async def test_without_a_choice_calls_stay_text(client: openai.AsyncOpenAI, script: Script) -> None:
    script.says(CALL)
    answer = await client.chat.completions.create(model="base", messages=MESSAGES, tools=[TOOL], tool_choice="none")
    assert (answer.choices[0].message.content, answer.choices[0].message.tool_calls) == (CALL, None)


async def test_one_call_is_shown_where_they_are_not_parallel(client: openai.AsyncOpenAI, script: Script) -> None:
    script.says(CALL + SECOND)
    answer = await client.chat.completions.create(
        model="base", messages=MESSAGES, tools=[TOOL], parallel_tool_calls=False
    )
    assert [call.function.arguments for call in answer.choices[0].message.tool_calls or []] == ['{"city": "Paris"}']


async def test_a_required_call_and_a_named_function_have_a_form(client: openai.AsyncOpenAI, script: Script) -> None:
    script.says('[{"name": "weather", "parameters": {"city": "Paris"}}]')
    request: dict[str, Any] = {"model": "base", "messages": MESSAGES, "tools": [TOOL]}
    required = (await client.chat.completions.create(**request, tool_choice="required")).choices[0]
    script.says('{"city": "Paris"}')
    choice = {"type": "function", "function": {"name": "weather"}}
    named = (await client.chat.completions.create(**request, tool_choice=choice)).choices[0]
    for answer, reason in ((required, "tool_calls"), (named, "stop")):
        [call] = answer.message.tool_calls or []
        assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Paris"}')
        assert (answer.message.content, answer.finish_reason) == (None, reason)
    forms = [call.sampling.structured for call in script.calls]
    assert all(form is not None and form.kind == "json" for form in forms)


async def test_openai_s_parser_gets_its_model(client: openai.AsyncOpenAI, script: Script) -> None:
    class Weather(pydantic.BaseModel):
        city: str

    script.says(CALL.replace('"weather"', '"Weather"'))
    tool = openai.pydantic_function_tool(Weather)
    answer = await client.chat.completions.parse(model="base", messages=MESSAGES, tools=[tool])
    [call] = answer.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == Weather(city="Paris")


async def test_the_conversation_goes_on_with_the_result(client: openai.AsyncOpenAI, script: Script) -> None:
    script.says(CALL)
    first = (await client.chat.completions.create(model="base", messages=MESSAGES, tools=[TOOL])).choices[0].message
    result = {"role": "tool", "tool_call_id": (first.tool_calls or [])[0].id, "content": "rain"}
    script.says("It rains.")
    messages = [*MESSAGES, first.model_dump(), result]
    second = await client.chat.completions.create(model="base", messages=messages, tools=[TOOL])
    assert second.choices[0].message.content == "It rains."
    assert script.prompt(1) == "weather;u:weather in Paris?\na:(weather:Paris)\nt:rain\na:"


@pytest.mark.parametrize("stream", [False, True])
async def test_intrinsics_look_at_calls_over_the_same_prompt(
    client: openai.AsyncOpenAI, script: Script, stream: bool
) -> None:
    script.says(f"So: {CALL}")
    answer = await client.chat.completions.create(
        model="base", messages=MESSAGES, tools=[TOOL], stream=stream, extra_body={"intrinsics": ["uncertainty"]}
    )
    if stream:
        [found] = [chunk.intrinsics async for chunk in answer if getattr(chunk, "intrinsics", None)]
    else:
        found = answer.intrinsics
    assert found[0]["value"] == 7
    assert script.prompt(1).startswith("weather;u:weather in Paris?\na:So: (weather:Paris)\n")


async def test_log_probabilities_of_every_token_are_there(client: openai.AsyncOpenAI, script: Script) -> None:
    def token(text: str, reason: str | None = None) -> EngineChunk:
        return EngineChunk(0, text, 1, reason, logprobs=(TokenLogprobs(TokenLogprob(text, -1.0)),))

    script.answers["base"] = (*map(token, CALL[:-1]), token(CALL[-1], "stop"))
    stream = await client.chat.completions.create(
        model="base", messages=MESSAGES, tools=[TOOL], stream=True, logprobs=True
    )
    shown = [chunk.choices[0].logprobs async for chunk in stream]
    assert "".join(token.token for one in shown if one for token in one.content or []) == CALL


async def test_the_answer_goes_on_with_the_client_s_beginning(client: openai.AsyncOpenAI, script: Script) -> None:
    script.says("y is late")
    begun = {"role": "assistant", "content": "The ferr"}
    for more in ({"add_generation_prompt": False}, {}):
        answer = await client.chat.completions.create(
            model="base",
            messages=[*MESSAGES, begun],
            extra_body={"continue_final_message": True, "intrinsics": ["uncertainty"]} | more,
        )
        assert answer.choices[0].message.content == "y is late"
    assert script.prompt(0) == "u:weather in Paris?\na:The ferr"
    assert script.prompt(1).startswith("u:weather in Paris?\na:The ferry is late\n")


async def test_calls_over_grpc_are_those_of_http(gateway: Gateway, script: Script) -> None:
    script.says(*f"So: {CALL}")
    message = message_of(ChatRequest, {"model": "base", "messages": MESSAGES, "tools": [TOOL]})
    async with served(gateway.grpc_edge()) as caller:
        whole = await caller.answer("Inference/Chat", message, ChatResponse)
        parts = await caller.parts("Inference/ChatStream", message, ChatStreamResponse)
    [choice] = whole.choices
    [call] = choice.message.tool_calls
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "So: ")
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Paris"}')
    deltas = [choice.delta for part in parts for choice in part.choices]
    assert "".join(delta.content for delta in deltas) == "So: "
    added = [addition for delta in deltas for addition in delta.tool_calls]
    assert [addition.function.name for addition in added if addition.id] == ["weather"]
    assert "".join(addition.function.arguments for addition in added) == call.function.arguments
    assert [choice.finish_reason for part in parts for choice in part.choices if choice.finish_reason] == ["tool_calls"]
