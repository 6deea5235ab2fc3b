"""``POST /v1/responses`` over a scripted engine, as OpenAI's own clients see it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pydantic
import pytest
from support.intrinsic_path import ADAPTERS
from support.scripted_chat import CALL, PARAMETERS, Script, http_client, scripted_gateway

from aloraserve.adapters import StaticRegistry
from aloraserve.serving.engine_messages import EngineChunk, TokenLogprob, TokenLogprobs
from aloraserve_services.gateway.deployment import Gateway

TOOL: Any = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": True}


@pytest.fixture
def adapters() -> StaticRegistry:
    return StaticRegistry(ADAPTERS, base_names=["base"])


class Weather(pydantic.BaseModel):
    city: str


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    return Script(monkeypatch)


@pytest.fixture
def http(open_gateway: Callable[..., Gateway], script: Script, monkeypatch: pytest.MonkeyPatch) -> httpx.AsyncClient:
    return http_client(scripted_gateway(open_gateway, monkeypatch))


@pytest.fixture
def client(http: httpx.AsyncClient) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="none", http_client=http, max_retries=0)


async def test_a_text_becomes_a_response(client: openai.AsyncOpenAI, script: Script) -> None:
    script.says("It ", "rains.")
    response = await client.responses.create(
        model="base", input="weather in Paris?", instructions="Be short.", metadata={"team": "a"}, max_output_tokens=9
    )
    assert response.output_text == "It rains."
    assert (response.status, response.error, response.incomplete_details) == ("completed", None, None)
    assert (response.store, response.metadata, response.max_output_tokens) == (False, {"team": "a"}, 9)
    assert script.prompt(0) == "s:Be short.\nu:weather in Paris?\na:"
    assert response.usage is not None
    assert response.usage.input_tokens == len(script.prompt(0))
    assert response.usage.total_tokens == response.usage.input_tokens + 2
    assert script.calls[0].sampling.max_tokens == 9


async def test_a_stream_has_openai_s_events_in_their_order(client: openai.AsyncOpenAI, script: Script) -> None:
    script.says("It ", "rains.")
    async with client.responses.stream(model="base", input="weather?") as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert final.output_text == "It rains."
    assert final.usage is not None
    assert final.usage.output_tokens == 2


async def test_calls_are_items_of_their_own(client: openai.AsyncOpenAI, script: Script) -> None:
    script.says(*f"Let me see.\n{CALL}\n{CALL.replace('Paris', 'Rome')}")
    whole = await client.responses.create(model="base", input="weather?", tools=[TOOL])
    async with client.responses.stream(model="base", input="weather?", tools=[TOOL]) as stream:
        events = [event async for event in stream]
        streamed = await stream.get_final_response()
    for response in (whole, streamed):
        message, *calls = response.output
        assert (message.type, response.output_text) == ("message", "Let me see.\n")
        shown = [(call.name, json.loads(call.arguments)) for call in calls if call.type == "function_call"]
        assert shown == [("weather", {"city": "Paris"}), ("weather", {"city": "Rome"})]
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [event.arguments for event in done] == ['{"city": "Paris"}', '{"city": "Rome"}']
    assert [event.output_index for event in events if event.type == "response.output_item.added"] == [0, 1, 2]


async def test_the_conversation_goes_on_with_the_output(client: openai.AsyncOpenAI, script: Script) -> None:
    script.says(f"So: {CALL}")
    first = await client.responses.create(model="base", input="weather?", tools=[TOOL])
    call = first.output[-1]
    assert call.type == "function_call"
    script.says("It rains.")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    items: Any = [{"role": "user", "content": [{"type": "input_text", "text": "weather?"}]}, *first.output, result]
    second = await client.responses.create(model="base", input=items, tools=[TOOL], store=False)
    assert second.output_text == "It rains."
    assert script.prompt(1) == "weather;u:weather?\na:So: (weather:Paris)\nt:rain\na:"


async def test_a_form_and_a_required_call_are_held(client: openai.AsyncOpenAI, script: Script) -> None:
    script.says('{"city": "Paris"}')
    parsed = await client.responses.parse(model="base", input="weather?", text_format=Weather)
    assert parsed.output_parsed == Weather(city="Paris")
    choice: Any = {"type": "function", "name": "weather"}
    named = await client.responses.create(model="base", input="weather?", tools=[TOOL], tool_choice=choice)
    assert [item.type for item in named.output] == ["function_call"]
    assert all(call.sampling.structured is not None for call in script.calls)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_was_cut_short_is_incomplete(
    client: openai.AsyncOpenAI, script: Script, stream: bool
) -> None:
    script.says("It ra", reason="length")
    if stream:
        events = [event async for event in await client.responses.create(model="base", input="x", stream=True)]
        assert events[-1].type == "response.incomplete"
        response = events[-1].response
    else:
        response = await client.responses.create(model="base", input="x")
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output_text == "It ra"


async def test_an_answer_that_fails_says_so_in_its_last_event(client: openai.AsyncOpenAI, script: Script) -> None:
    script.answers["base"] = (EngineChunk(0, "It", 1), RuntimeError("gone"))
    events = [event async for event in await client.responses.create(model="base", input="x", stream=True)]
    assert events[-1].type == "response.failed"
    assert events[-1].response.error is not None
    assert "gone" not in events[-1].response.error.message


async def test_log_probabilities_are_there_if_they_are_included(client: openai.AsyncOpenAI, script: Script) -> None:
    tokens = [TokenLogprobs(TokenLogprob(text, -0.5), (TokenLogprob("a", -1.0),)) for text in ("It", " rains")]
    script.answers["base"] = tuple(
        EngineChunk(0, token.chosen.token, 1, reason, logprobs=(token,))
        for token, reason in zip(tokens, (None, "stop"), strict=True)
    )
    include: Any = ["message.output_text.logprobs"]
    response = await client.responses.create(model="base", input="x", include=include, top_logprobs=1)
    [message] = response.output
    assert message.type == "message"
    [part] = message.content
    assert part.type == "output_text"
    assert [token.token for token in part.logprobs or []] == ["It", " rains"]
    async with client.responses.stream(model="base", input="x", include=include) as stream:
        deltas = [event async for event in stream if event.type == "response.output_text.delta"]
    assert [token.token for event in deltas for token in event.logprobs] == ["It", " rains"]


async def test_an_empty_answer_is_an_empty_message(client: openai.AsyncOpenAI, script: Script) -> None:
    script.says("")
    response = await client.responses.create(model="base", input="x")
    assert (response.output_text, len(response.output)) == ("", 1)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"input": [{"type": "web_search_call", "id": "x"}]}, "input.0.type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input.0.content.0.type",
        ),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input.0.call_id"),
        ({"input": []}, "input"),
        ({"truncation": "auto"}, "truncation"),
        ({"max_tokens": 3}, "max_tokens"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "time"}}, "tool_choice"),
        ({"guard": ["safety"]}, "guard"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"include": ["file_search_call.results"]}, "include.0"),
    ],
)
async def test_what_needs_a_memory_or_tools_of_our_own_is_refused_by_name(
    http: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    answer = await http.post("/v1/responses", json={"model": "base", "input": "x"} | fields)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert re.search("not supported|is required|should be|send|not among", error["message"]), error["message"]


async def test_nothing_is_kept(http: httpx.AsyncClient, client: openai.AsyncOpenAI, script: Script) -> None:
    script.says("x")
    response = await client.responses.create(model="base", input="x", store=True)
    assert response.store is False
    assert (await http.get(f"/v1/responses/{response.id}")).status_code == 404


async def test_unknown_fields_are_named(http: httpx.AsyncClient, script: Script) -> None:
    script.says("x")
    body = {"model": "base", "input": [{"role": "user", "content": "x", "mood": "y"}], "seeed": 1}
    answer = await http.post("/v1/responses", json=body)
    assert answer.status_code == 200
    assert answer.headers["x-aloraserve-ignored"] == "seeed, input.mood"


async def test_an_adapter_is_named_by_the_model(client: openai.AsyncOpenAI, script: Script) -> None:
    response = await client.responses.create(model="uncertainty", input="x")
    assert response.model == "uncertainty"
    assert script.calls[0].adapter is not None
