"""Clients as they are, against a platform of simulated engines: granite-common, mellea, OpenAI's and LangChain's."""

from __future__ import annotations

import json
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest
import yaml
from granite_common import ChatCompletion, IntrinsicsResultProcessor, IntrinsicsRewriter
from support.io_yaml import REQUIREMENT_CHECK, UNCERTAINTY
from support.own_valkey import socket_url, valkey_server
from support.shown_model import write_shown_model

QUESTION = {"role": "user", "content": "Is the sky blue?"}
ANSWER = {"role": "assistant", "content": "Yes, it is."}
DOCUMENTS = [{"text": "The sky is blue.", "doc_id": "1"}, {"text": "Grass is green.", "doc_id": "2"}]

pytestmark = [pytest.mark.e2e, pytest.mark.untimed, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def fleet(start: Callable[..., Any], model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A platform whose model's chat template shows documents and tools, as Granite's do."""
    model = write_shown_model(model_path, tmp_path_factory.mktemp("models"))
    with (
        valkey_server() as server,
        start(
            *("--engine", "simulated", "--replicas", "1", "--model", str(model), "--redis-url", socket_url(server)),
            own_state=True,
        ) as running,
    ):
        yield running


def config(spec: bytes) -> dict[str, Any]:
    """Return an intrinsic's io.yaml as its user reads it; granite-common does not know mellea's ``name``."""
    return {"instruction": None} | {key: value for key, value in yaml.safe_load(spec).items() if key != "name"}


def evaluated(fleet: Any, model: str, spec: bytes, request: dict[str, Any], **arguments: Any) -> Any:
    """Return what granite-common makes of the answer to a request, which OpenAI's client sends as it is."""
    rewriter = IntrinsicsRewriter(config_dict=config(spec), model_name=model)
    processor = IntrinsicsResultProcessor(config_dict=config(spec))
    rewritten = rewriter.transform(ChatCompletion.model_validate(request), **arguments)
    response = fleet.openai.chat.completions.create(**rewritten.model_dump())
    [choice] = response.choices
    if choice.logprobs is not None:
        assert "".join(token.token for token in choice.logprobs.content) == choice.message.content
        assert bytes(b for token in choice.logprobs.content for b in token.bytes) == choice.message.content.encode()
    return json.loads(processor.transform(response.model_dump(), rewritten).choices[0].message.content)


def test_granite_common_gets_a_probability_from_a_digit(fleet: Any) -> None:
    found = evaluated(fleet, "uncertainty", UNCERTAINTY, {"messages": [QUESTION, ANSWER]})
    assert 0.05 <= found["certainty"] <= 0.95


def test_granite_common_s_documents_are_in_the_prompt(fleet: Any) -> None:
    request = {"messages": [QUESTION, ANSWER], "extra_body": {"documents": DOCUMENTS}}
    assert 0.05 <= evaluated(fleet, "uncertainty", UNCERTAINTY, request)["certainty"] <= 0.95

    def prompt_tokens(**fields: Any) -> int:
        answer = fleet.openai.chat.completions.create(
            model=fleet_model(fleet), messages=[QUESTION], max_tokens=1, extra_body=fields
        )
        return int(answer.usage.prompt_tokens)

    shown = sum(len(fleet.tokenizer(document["text"])["input_ids"]) for document in DOCUMENTS)
    assert prompt_tokens(documents=DOCUMENTS) > prompt_tokens(documents=[]) + shown


def test_granite_common_s_documents_as_messages_and_an_instruction(fleet: Any) -> None:
    spec = REQUIREMENT_CHECK + b"docs_as_message: roles\n"
    request = {"messages": [QUESTION, ANSWER], "extra_body": {"documents": DOCUMENTS}}
    assert 0 <= evaluated(fleet, "safety", spec, request, requirement="be short")["score"] <= 1


def fleet_model(fleet: Any) -> str:
    return next(str(model.id) for model in fleet.openai.models.list() if getattr(model, "kind", "") == "base")


@pytest.fixture
async def backend(fleet: Any) -> AsyncIterator[Any]:
    """mellea's backend for servers with OpenAI's API, with two intrinsics as its users add them."""
    from mellea.backends.adapters import EmbeddedIntrinsicAdapter
    from mellea.backends.openai import OpenAIBackend

    opened = OpenAIBackend(model_id=fleet_model(fleet), base_url=f"{fleet.url}/v1", api_key="none")
    with warnings.catch_warnings():
        # The class that knows io.yaml is deprecated, and "safety" is not in mellea's catalogue.
        warnings.simplefilter("ignore")
        for name, spec in (("uncertainty", UNCERTAINTY), ("safety", REQUIREMENT_CHECK)):
            opened.add_adapter(EmbeddedIntrinsicAdapter(name, config(spec), technology="alora"))
    yield opened
    await opened.aclose()


def conversation(*documents: Any) -> Any:
    from mellea.stdlib.components import Message
    from mellea.stdlib.context import ChatContext

    context = ChatContext().add(Message("user", QUESTION["content"], documents=list(documents) or None))
    return context.add(Message("assistant", ANSWER["content"]))


@pytest.mark.parametrize("has_documents", [False, True])
async def test_mellea_s_intrinsics_have_typed_results(backend: Any, has_documents: bool) -> None:
    from mellea.backends.adapters import AdapterType
    from mellea.stdlib.components import Document, Intrinsic

    documents = [Document(**document) for document in DOCUMENTS] if has_documents else []

    async def run(name: str, **arguments: str) -> Any:
        action = Intrinsic(name, arguments, adapter_types=(AdapterType.ALORA,))
        output, _ = await backend.generate_from_context(action, conversation(*documents))
        return json.loads(await output.avalue())

    assert 0.05 <= (await run("uncertainty"))["certainty"] <= 0.95
    assert 0 <= (await run("safety", requirement="be short"))["score"] <= 1


async def test_mellea_chats_and_asks_for_a_form(backend: Any) -> None:
    from mellea.stdlib.components import Message

    class Verdict(pydantic.BaseModel):
        answer: str
        is_sure: bool
        score: int = pydantic.Field(ge=0, le=9)

    async def run(**options: Any) -> str:
        action = Message("user", "And the grass?")
        output, _ = await backend.generate_from_context(action, conversation(), **options)
        return str(await output.avalue())

    assert await run()
    assert Verdict.model_validate_json(await run(format=Verdict))


async def test_mellea_s_list_of_raw_prompts_comes_back_in_order_and_in_form(backend: Any) -> None:
    """The form goes as ``structured_outputs``: mellea has read ``GET /version``."""
    from mellea.core import CBlock
    from mellea.stdlib.context import SimpleContext

    class Count(pydantic.BaseModel):
        count: int = pydantic.Field(ge=10, le=99)

    prompts = [CBlock("One is"), CBlock("Two is"), CBlock("Three is")]
    outputs = await backend.generate_from_raw(prompts, SimpleContext(), format=Count)
    assert len(outputs) == 3
    assert all(10 <= Count.model_validate_json(output.value).count <= 99 for output in outputs)


@pytest.mark.parametrize("form", [{"type": "strin"}, {"type": "array", "minItems": 1_000_000_000}])
def test_a_form_that_cannot_be_is_a_400_and_the_platform_goes_on(fleet: Any, form: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError, match="structured_outputs"):
        fleet.openai.chat.completions.create(
            model="uncertainty", messages=[QUESTION], extra_body={"structured_outputs": {"json": form}}
        )
    assert evaluated(fleet, "uncertainty", UNCERTAINTY, {"messages": [QUESTION, ANSWER]})


class Weather(pydantic.BaseModel):
    """Look up the weather of a city."""

    city: str = pydantic.Field(min_length=1, max_length=8)
    days: int = pydantic.Field(ge=1, le=9)


def test_openai_s_client_gets_the_calls_that_it_requires(fleet: Any) -> None:
    request: dict[str, Any] = {
        "model": fleet_model(fleet),
        "messages": [QUESTION],
        "tools": [openai.pydantic_function_tool(Weather)],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "temperature": 0,
    }
    whole = fleet.openai.chat.completions.parse(**request).choices[0]
    with fleet.openai.chat.completions.stream(**request) as stream:
        streamed = stream.get_final_completion().choices[0]
    for choice in (whole, streamed):
        [call] = choice.message.tool_calls
        assert isinstance(call.function.parsed_arguments, Weather)
        assert choice.finish_reason == "tool_calls"
    assert whole.message.tool_calls[0].function.arguments == streamed.message.tool_calls[0].function.arguments


def test_the_conversation_with_a_tool_s_result_is_found_by_an_adapter(fleet: Any) -> None:
    tools = [openai.pydantic_function_tool(Weather)]
    choice = {"type": "function", "function": {"name": "Weather"}}
    asked = {**QUESTION, "content": "Is it raining? " * 20}
    request: dict[str, Any] = {"model": fleet_model(fleet), "tools": tools, "max_tokens": 64}
    first = fleet.openai.chat.completions.create(messages=[asked], tool_choice=choice, **request).choices[0].message
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "It rains. " * 20}
    messages = [asked, first, result]
    second = fleet.openai.chat.completions.create(messages=messages, tool_choice="none", **request)
    third = fleet.openai.chat.completions.create(
        messages=messages, tools=tools, tool_choice="none", model="uncertainty", max_tokens=4
    )
    prompt = second.usage.prompt_tokens
    assert third.usage.prompt_tokens_details.cached_tokens >= (prompt - 64) // 32 * 32


async def test_langchain_binds_tools_and_gets_structures(fleet: Any) -> None:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(
        model=fleet_model(fleet), base_url=f"{fleet.url}/v1", api_key=pydantic.SecretStr("none"), max_retries=0
    )
    bound = model.bind_tools([Weather], tool_choice="required", parallel_tool_calls=False)
    answer = bound.invoke([("user", "Is it raining?")])
    [call] = answer.tool_calls
    assert Weather.model_validate(call["args"])
    pieces = [piece async for piece in bound.astream([("user", "Is it raining?")])]
    total = pieces[0]
    for piece in pieces[1:]:
        total = total + piece
    assert Weather.model_validate(total.tool_calls[0]["args"])
    for method in ("function_calling", "json_schema"):
        structured = model.with_structured_output(Weather, method=method)
        assert isinstance(await structured.ainvoke([("user", "Is it raining?")]), Weather)


def test_openai_s_client_gets_responses(fleet: Any) -> None:
    request: dict[str, Any] = {"model": fleet_model(fleet), "input": "Is it raining?", "temperature": 0}
    whole = fleet.openai.responses.create(**request, max_output_tokens=16)
    with fleet.openai.responses.stream(**request, max_output_tokens=16) as stream:
        events = list(stream)
    assert whole.output_text
    assert events[-1].type == f"response.{whole.status}"
    assert events[-1].response.output_text == whole.output_text
    parsed = fleet.openai.responses.parse(**request, text_format=Weather)
    assert isinstance(parsed.output_parsed, Weather)
    tool = {"type": "function", "name": "weather", "parameters": Weather.model_json_schema()}
    called = fleet.openai.responses.create(**request, tools=[tool], tool_choice="required", parallel_tool_calls=False)
    [call] = called.output
    assert Weather.model_validate_json(call.arguments)
    long = request | {"input": "Is it raining? " * 20}
    fleet.openai.responses.create(**long)
    assert fleet.openai.responses.create(**long).usage.input_tokens_details.cached_tokens >= 32
