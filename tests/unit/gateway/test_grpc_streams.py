"""Streams over gRPC have what HTTP's have, field by field, once the parts of each choice are put together."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import httpx
import msgspec
import pytest
from google.protobuf.message import Message
from prometheus_client import CollectorRegistry
from support.fake_engines import Engines
from support.fake_pool import ScriptedReplies
from support.grpc_caller import GrpcCaller, served
from support.scripted_chat import CALL, PARAMETERS, scripted_gateway

from aloraserve.serving.engine_messages import EngineCall, EngineChunk, TokenLogprob, TokenLogprobs
from aloraserve.v1.chat_pb2 import ChatRequest, ChatStreamResponse
from aloraserve.v1.completion_pb2 import CompleteRequest, CompleteStreamResponse
from aloraserve.wire.protobuf import json_of, message_of
from aloraserve_services.gateway.deployment import Gateway

LOGPROBS = [TokenLogprobs(TokenLogprob(token, -0.5, None, 97), (TokenLogprob("z", -2.0),)) for token in ("a", "b")]
CHAT: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
COMPLETION: dict[str, Any] = {"model": "base", "prompt": ["hi"], "max_tokens": 9}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
IDS = {"return_token_ids": True}


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The text that each choice has, by pieces."""
    said = {"texts": ["a", "b"]}

    def chunks(call: EngineCall) -> Iterable[EngineChunk]:
        texts = said["texts"]
        for index in range(call.sampling.n):
            for number, text in enumerate(texts):
                is_last = number + 1 == len(texts)
                yield EngineChunk(
                    index,
                    text,
                    1,
                    "stop" if is_last else None,
                    cached_tokens=1,
                    logprobs=tuple(LOGPROBS[number % 2 : number % 2 + 1]) if call.sampling.logprobs is not None else (),
                    token_ids=(97 + number,),
                    stop_reason="x" if is_last else None,
                )

    def dispatch(self: Engines, selection: Any, call: EngineCall) -> ScriptedReplies:
        return ScriptedReplies([*chunks(call)])

    monkeypatch.setattr(Engines, "dispatch", dispatch)
    return said


@pytest.fixture
def gateway(open_gateway: Callable[..., Gateway], replies: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Gateway:
    made: Gateway = scripted_gateway(lambda **settings: open_gateway(CollectorRegistry(), **settings), monkeypatch)
    return made


@pytest.fixture
async def caller(gateway: Gateway) -> AsyncIterator[GrpcCaller]:
    async with served(gateway.grpc_edge()) as caller:
        yield caller


@pytest.fixture
def http(gateway: Gateway) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(gateway.http_app()), base_url="http://localhost")


def put_together(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return what all parts of a stream say: texts and lists one after the other, anything else the last time."""
    whole: dict[str, Any] = {"choices": {}}
    for part in parts:
        for choice in part.get("choices", ()):
            _add(whole["choices"].setdefault(choice.get("index", 0), {}), _flat(choice))
        _add(whole, {name: value for name, value in part.items() if name not in ("choices", *ONCE)})
    return whole


ONCE = ("id", "object", "created", "model", "serving")


def _flat(choice: dict[str, Any]) -> dict[str, Any]:
    logprobs = choice.get("logprobs") or {}
    return {name: value for name, value in choice.items() if name not in ("delta", "logprobs", "index")} | {
        **(choice.get("delta") or {}),
        **{f"logprobs.{name}": value for name, value in logprobs.items()},
    }


def _add(found: dict[str, Any], more: dict[str, Any]) -> None:
    for name, value in more.items():
        if value is None or value == "":
            continue
        if name == "tool_calls":
            value = [{key: each for key, each in call.items() if key != "id"} for call in value]
        is_more = name in ("text", "content", "token_ids", "tool_calls") or name.startswith("logprobs.")
        found[name] = found[name] + value if is_more and name in found else value


@pytest.mark.parametrize(
    "fields",
    [
        {},
        IDS,
        IDS | {"n": 2},
        {"logprobs": True, "top_logprobs": 1, **IDS},
        {"tools": [TOOL], "tool_choice": "auto", **IDS},
        {"stop": ["x"]},
    ],
)
async def test_a_chat(
    caller: GrpcCaller, http: httpx.AsyncClient, replies: dict[str, Any], fields: dict[str, Any]
) -> None:
    if "tools" in fields:
        replies["texts"] = ["So: ", *CALL]
        fields = fields | {"max_tokens": 200}
    own, its = await both(caller, http, "/v1/chat/completions", CHAT | fields)
    assert own == its
    assert own["system_fingerprint"].startswith("aloraserve-")
    choice = own["choices"][0]
    assert choice["stop_reason"] == "x"
    assert ("token_ids" in choice, "prompt_token_ids" in own) == (IDS.items() <= fields.items(),) * 2


@pytest.mark.parametrize(
    "fields",
    [
        {},
        IDS,
        IDS | {"n": 2, "prompt": ["hi", "there"]},
        {"logprobs": 1, **IDS},
        {"echo": True, **IDS},
        {"return_tokens_as_token_ids": True, "logprobs": 1},
    ],
)
async def test_a_completion(caller: GrpcCaller, http: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    own, its = await both(caller, http, "/v1/completions", COMPLETION | fields)
    assert own == its
    for choice in own["choices"].values():
        assert choice["stop_reason"] == "x"
        assert ("token_ids" in choice, "prompt_token_ids" in choice) == (IDS.items() <= fields.items(),) * 2


async def both(
    caller: GrpcCaller, http: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what gRPC streams, and what HTTP does."""
    request: type[Message] = ChatRequest if "messages" in body else CompleteRequest
    kind: type[Message] = ChatStreamResponse if "messages" in body else CompleteStreamResponse
    method = "Inference/ChatStream" if "messages" in body else "Inference/CompleteStream"
    parts = await caller.parts(method, message_of(request, body), kind)
    streamed = body | {"stream": True, "stream_options": {"include_usage": True}}
    text = (await http.post(path, json=streamed)).text
    events = [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]
    own = [json.loads(msgspec.json.encode(json_of(part))) for part in parts]
    return put_together(own), put_together(events)
