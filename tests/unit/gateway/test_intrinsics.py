"""``POST /v1/intrinsics`` and the intrinsics of chats, over a scripted engine, as clients see them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from pydantic import SecretStr
from support.fake_engines import Engines
from support.fake_pool import ScriptedReplies
from support.grpc_caller import served
from support.intrinsic_path import ADAPTERS, ANSWERS, chunk

from aloraserve.adapters import StaticRegistry
from aloraserve.serving.engine_messages import EngineCall, EngineChunk
from aloraserve.v1.intrinsics_pb2 import RunRequest, RunResponse
from aloraserve.wire.protobuf import message_of
from aloraserve_services.gateway.deployment import Gateway

MESSAGES = [{"role": "user", "content": "a long question about ferries"}]
BASE = (EngineChunk(0, "Two ", 1, cached_tokens=8), EngineChunk(0, "crowns", 1, "stop"))


@pytest.fixture
def adapters() -> StaticRegistry:
    return StaticRegistry(ADAPTERS, base_names=["base"])


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What each adapter answers."""
    answers: dict[str, Any] = {name: (answer,) for name, answer in ANSWERS.items()} | {"base": BASE}

    def dispatch(self: Engines, selection: Any, call: EngineCall) -> ScriptedReplies:
        return ScriptedReplies(answers[call.adapter.name if call.adapter else "base"])

    monkeypatch.setattr(Engines, "dispatch", dispatch)
    return answers


@pytest.fixture
def client(open_gateway: Callable[..., Gateway], answers: dict[str, Any]) -> httpx.AsyncClient:
    app = open_gateway(max_model_len=512).http_app()
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")


@pytest.fixture
def sdk(client: httpx.AsyncClient) -> openai.AsyncOpenAI:
    """OpenAI's own client, as it is."""
    return openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="none", http_client=client, max_retries=0)


async def ask(client: httpx.AsyncClient, *intrinsics: Any, **fields: Any) -> httpx.Response:
    body = {"messages": MESSAGES, "intrinsics": list(intrinsics)} | fields
    return await client.post("/v1/intrinsics", json=body)


async def test_an_adapter_is_not_named_in_two_ways(client: httpx.AsyncClient) -> None:
    answer = await ask(client, "uncertainty", chat_template_kwargs={"adapter_name": "answerable"})
    assert answer.status_code == 400
    assert "has an 'adapter_name'; adapters are named in 'intrinsics' here" in answer.json()["error"]["message"]


@pytest.mark.parametrize("fields", [{}, {"criteria": "short", "x": "y"}])
async def test_of_several_the_one_with_wrong_fields_is_named(client: httpx.AsyncClient, fields: dict[str, str]) -> None:
    guards = ["answerable", {"name": "judge", "fields": fields}]
    answer = await client.post("/v1/chat/completions", json={"model": "base", "messages": MESSAGES, "guard": guards})
    assert answer.status_code == 400
    assert "'judge'" in answer.json()["error"]["message"]


async def test_several_intrinsics_are_answered_in_one_request(client: httpx.AsyncClient) -> None:
    answer = await ask(client, "answerable", {"name": "judge", "fields": {"criteria": "short"}}, "uncertainty")
    assert answer.status_code == 200
    assert answer.json()["object"] == "intrinsics"
    answerable, judge, uncertainty = answer.json()["results"]
    assert (answerable["status"], answerable["value"], answerable["text"]) == ("ok", True, "Y")
    yes = answerable["probability"]
    assert answerable["probabilities"] == pytest.approx({"Y": yes, "N": 1 - yes})
    assert (judge["value"], judge["probability"]) == ("good", None)
    assert (uncertainty["value"], uncertainty["usage"]["cached_tokens"]) == (7, 8)
    assert answerable["adapter"].startswith("answerable")
    assert {"id", "replica", "ttft_ms", "time_ms", "finish_reason"} <= uncertainty.keys()


async def test_each_call_has_a_receipt_of_its_own(client: httpx.AsyncClient) -> None:
    answer = await ask(client, "answerable", "safety")
    for result in answer.json()["results"]:
        receipt = (await client.get(f"/v1/receipts/{result['id']}")).json()
        assert receipt["adapter"] == result["name"]


@pytest.mark.parametrize("transport", ["http", "grpc"])
async def test_a_salt_and_a_priority_are_a_chat_s(
    open_gateway: Callable[..., Gateway],
    answers: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    transport: str,
) -> None:
    """Users whom an application keeps apart in chats share no block in intrinsics either."""
    calls: list[EngineCall] = []
    original = Engines.dispatch

    def dispatch(self: Engines, selection: Any, call: EngineCall) -> ScriptedReplies:
        calls.append(call)
        return original(self, selection, call)

    monkeypatch.setattr(Engines, "dispatch", dispatch)
    gateway = open_gateway(max_model_len=512, api_keys={"acme": SecretStr("tenant-key-0123456789")})
    key = {"authorization": "Bearer tenant-key-0123456789"}
    sent: list[dict[str, Any]] = [{"cache_salt": "ada", "priority": 7}, {"cache_salt": "bob"}, {}]
    transport_of = httpx.ASGITransport(gateway.http_app())
    async with (
        httpx.AsyncClient(transport=transport_of, base_url="http://localhost", headers=key) as client,
        served(gateway.grpc_edge()) as caller,
    ):
        for fields in sent:
            await client.post("/v1/chat/completions", json={"model": "base", "messages": MESSAGES} | fields)
            if transport == "http":
                assert (await ask(client, "answerable", **fields)).status_code == 200
                continue
            body = {"messages": MESSAGES, "intrinsics": [{"name": "answerable"}]} | fields
            await caller.answer("Intrinsics/Run", message_of(RunRequest, body), RunResponse, key.items())
    assert [call.adapter is None for call in calls] == [True, False] * 3
    assert len({call.cache_salt for call in calls}) == 3
    assert len({call.keys[0] for call in calls}) == 3
    for chat, intrinsic in zip(calls[::2], calls[1::2], strict=True):
        assert (chat.cache_salt, chat.keys[0]) == (intrinsic.cache_salt, intrinsic.keys[0])
        assert chat.share == intrinsic.share
    assert calls[1].share is not None
    assert calls[1].share.priority == 7


async def test_failures_are_each_item_s_own(client: httpx.AsyncClient, answers: dict[str, Any]) -> None:
    answers["safety"] = (chunk("perhaps"),)
    answer = await ask(client, "nobody", "safety", "words", "answerable")
    assert answer.status_code == 200
    unknown, unusable, plain, fine = answer.json()["results"]
    assert (unknown["status"], unknown["status_code"], unknown["error"]["code"]) == ("error", 404, "model_not_found")
    assert (unusable["status_code"], unusable["error"]["code"]) == (502, "unusable_answer")
    assert unusable["text"] == "perhaps"
    assert (plain["status_code"], "not an intrinsic" in plain["error"]["message"]) == (400, True)
    assert fine["status"] == "ok"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"intrinsics": []}, "intrinsics"),
        ({"intrinsics": ["safety"] * 33}, "intrinsics"),
        ({"intrinsics": "safety"}, "intrinsics"),
        ({"intrinsics": [{"name": "judge", "fields": {"criteria": 1}}]}, "intrinsics"),
        ({"intrinsics": [{"name": "judge", "values": {}}]}, "values"),
        ({"intrinsics": [{"name": "judge", "fields": {"criteria": "x" * 70_000}}]}, "fields"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": 1e9}, "timeout_s"),
        ({"cache_salt": "x" * 1025}, "cache_salt"),
        ({"priority": "high"}, "priority"),
        ({"messages": []}, "messages"),
        ({"model": "base"}, "model"),
        ({"chat_template_kwargs": {"a b": 1}}, "chat_template_kwargs"),
    ],
)
async def test_a_wrong_request_is_refused_by_name(
    client: httpx.AsyncClient, fields: dict[str, Any], named: str
) -> None:
    answer = await ask(client, "safety", **fields)
    assert answer.status_code == 400, answer.text
    assert named in answer.json()["error"]["message"]


async def test_a_key_is_needed_where_there_are_keys(
    open_gateway: Callable[..., Gateway], answers: dict[str, Any]
) -> None:
    app = open_gateway(api_keys={"acme": SecretStr("tenant-key-0123456789")}).http_app()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        assert (await ask(client, "safety")).status_code == 401


async def test_a_chat_s_answer_comes_with_what_intrinsics_find_in_it(sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.chat.completions.create(
        model="base",
        messages=MESSAGES,  # type: ignore[arg-type]
        extra_body={"intrinsics": ["uncertainty", "nobody"], "guard": ["safety"]},
    )
    assert answer.choices[0].message.content == "Two crowns"
    assert answer.model_extra is not None
    uncertainty, nobody = answer.model_extra["intrinsics"]
    assert (uncertainty["value"], nobody["status"]) == (7, "error")
    (guard,) = answer.model_extra["guard"]
    assert (guard["name"], guard["refused"], guard["threshold"]) == ("safety", False, 0.5)


async def test_intrinsics_look_at_the_answer_not_only_at_the_question(
    sdk: openai.AsyncOpenAI, answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: dict[str, str] = {}
    original = Engines.dispatch

    def dispatch(self: Engines, selection: Any, call: EngineCall) -> ScriptedReplies:
        prompts[call.adapter.name if call.adapter else "base"] = "".join(map(chr, call.token_ids[1:]))
        return original(self, selection, call)

    monkeypatch.setattr(Engines, "dispatch", dispatch)
    await sdk.chat.completions.create(
        model="base",
        messages=MESSAGES,  # type: ignore[arg-type]
        extra_body={"intrinsics": ["uncertainty"], "guard": ["safety"]},
    )
    assert f":{MESSAGES[0]['content']}\na:Two crowns\n" in prompts["uncertainty"]
    assert "Two crowns" not in prompts["safety"]


async def test_in_a_stream_results_are_events_of_their_own_after_the_answer(sdk: openai.AsyncOpenAI) -> None:
    stream = await sdk.chat.completions.create(
        model="base",
        messages=MESSAGES,  # type: ignore[arg-type]
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"intrinsics": ["uncertainty", "answerable"], "guard": ["safety"]},
    )
    chunks = [event async for event in stream]
    text = "".join(event.choices[0].delta.content or "" for event in chunks if event.choices)
    assert text == "Two crowns"
    kinds = [
        next((name for name in ("guard", "intrinsics") if (event.model_extra or {}).get(name)), "answer")
        for event in chunks[:-1]
    ]
    assert kinds == ["answer", "guard", "answer", "answer", "intrinsics", "intrinsics"]
    assert all(event.choices[0].index == 0 for event in chunks[:-1]), "clients look at the first choice"
    assert chunks[-1].usage is not None
    names = [(event.model_extra or {})["intrinsics"][0]["name"] for event in chunks[4:6]]
    assert sorted(names) == ["answerable", "uncertainty"]


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_guard_s_refusal_is_an_answer_that_clients_know(
    sdk: openai.AsyncOpenAI, client: httpx.AsyncClient, is_streamed: bool
) -> None:
    guard = {"guard": [{"name": "safety", "threshold": 0.05}, "answerable"]}
    if is_streamed:
        stream = await sdk.chat.completions.create(
            model="base",
            messages=MESSAGES,
            stream=True,
            extra_body=guard,  # type: ignore[arg-type]
        )
        chunks = [event async for event in stream]
        assert [event.choices[0].finish_reason for event in chunks] == [None, "content_filter"]
        refusal, results = chunks[1].choices[0].delta.refusal, (chunks[0].model_extra or {})["guard"]
    else:
        answer = await sdk.chat.completions.create(model="base", messages=MESSAGES, extra_body=guard)  # type: ignore[arg-type]
        assert (answer.choices[0].finish_reason, answer.choices[0].message.content) == ("content_filter", "")
        refusal, results = answer.choices[0].message.refusal, (answer.model_extra or {})["guard"]
    assert refusal is not None
    assert "the guard 'safety': probability 0.091, which is at least its threshold 0.05" in refusal
    assert [(one["name"], one["refused"]) for one in results] == [("safety", True), ("answerable", True)]


async def test_a_refused_chat_is_never_generated(client: httpx.AsyncClient, answers: dict[str, Any]) -> None:
    del answers["base"]
    body = {"model": "base", "messages": MESSAGES, "guard": [{"name": "safety", "threshold": 0}]}
    answer = await client.post("/v1/chat/completions", json=body)
    assert answer.json()["choices"][0]["finish_reason"] == "content_filter"


@pytest.mark.parametrize(
    ("guard", "status"), [(["nobody"], 404), (["words"], 400), ([{"name": "judge", "fields": {"criteria": "x"}}], 400)]
)
async def test_a_guard_that_cannot_guard_fails_the_chat(
    client: httpx.AsyncClient, guard: list[Any], status: int
) -> None:
    answer = await client.post("/v1/chat/completions", json={"model": "base", "messages": MESSAGES, "guard": guard})
    assert answer.status_code == status


async def test_one_answer_is_looked_at(client: httpx.AsyncClient) -> None:
    body = {"model": "base", "messages": MESSAGES, "intrinsics": ["safety"], "n": 2}
    answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert "'intrinsics' look at one answer" in answer.json()["error"]["message"]


@pytest.mark.parametrize("empty", [{}, {"intrinsics": None, "guard": None}, {"intrinsics": [], "guard": []}])
async def test_without_extensions_nothing_is_added(client: httpx.AsyncClient, empty: dict[str, Any]) -> None:
    answer = await client.post("/v1/chat/completions", json={"model": "base", "messages": MESSAGES} | empty)
    assert not {"guard", "intrinsics"} & answer.json().keys()
    assert answer.json()["choices"][0]["message"].keys() == {"role", "content"}
    streamed = await client.post("/v1/chat/completions", json={"model": "base", "messages": MESSAGES, "stream": True})
    events = [json.loads(line[6:]) for line in streamed.text.split("\n\n") if line.startswith("data: {")]
    assert all(not {"guard", "intrinsics"} & event.keys() for event in events)
