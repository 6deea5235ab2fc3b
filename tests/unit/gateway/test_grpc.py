"""The gRPC edge as clients see it: the same answers, refusals and rules as HTTP's, over a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.message import Message
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from support.fake_engines import Engines, WaitingReplies
from support.fake_pool import ScriptedReplies
from support.grpc_caller import GrpcCaller, details_of, served

from aloraserve.errors import ReplicaLostError
from aloraserve.serving.engine_messages import EngineCall, EngineChunk, TokenLogprob, TokenLogprobs
from aloraserve.v1.adapters_pb2 import ListRequest, ListResponse
from aloraserve.v1.chat_pb2 import ChatRequest, ChatResponse, ChatStreamResponse
from aloraserve.v1.completion_pb2 import CompleteRequest, CompleteResponse, CompleteStreamResponse
from aloraserve.v1.intrinsics_pb2 import RunRequest, RunResponse
from aloraserve.wire.protobuf import json_of, message_of
from aloraserve_services.gateway.deployment import Gateway
from aloraserve_services.gateway.known_replicas import note_replicas

Code = grpc.StatusCode
ADA, ADMIN = "ada-key-0123456789", "admin-key-0123456789"
LOGPROBS = tuple(TokenLogprobs(TokenLogprob(token, -0.5), (TokenLogprob("z", -2.0),)) for token in ("a", "b"))
REPLY = (
    EngineChunk(0, "a", 1, cached_tokens=1, logprobs=LOGPROBS[:1]),
    EngineChunk(0, "b", 1, "stop", logprobs=LOGPROBS[1:]),
)
HI = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What engines answer next; without any each call gets :data:`REPLY`."""
    planned: list[Any] = []

    def dispatch(self: Engines, selection: Any, call: EngineCall) -> Any:
        return planned.pop(0) if planned else ScriptedReplies(REPLY)

    monkeypatch.setattr(Engines, "dispatch", dispatch)
    return planned


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def gateway(open_gateway: Callable[..., Gateway], registry: CollectorRegistry, replies: list[Any]) -> Gateway:
    return open_gateway(registry, max_model_len=512)


@pytest.fixture
async def caller(gateway: Gateway) -> AsyncIterator[GrpcCaller]:
    async with served(gateway.grpc_edge()) as caller:
        yield caller


@pytest.fixture
def http(gateway: Gateway) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(gateway.http_app()), base_url="http://localhost")


def chat(**fields: Any) -> ChatRequest:
    return message_of(ChatRequest, HI | fields)


def complete(**fields: Any) -> CompleteRequest:
    return message_of(CompleteRequest, {"model": "base", "prompt": ["ab"]} | fields)


def without_times(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer without what differs from call to call, and what only gRPC has."""
    return {name: value for name, value in answer.items() if name not in ("id", "created", "object", "serving")}


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_nulls(entry) for name, entry in value.items() if entry is not None}
    return [without_nulls(entry) for entry in value] if isinstance(value, list) else value


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value


async def read(stream: Any, said: list[bytes] | None = None) -> None:
    """Read a stream to its end, and note its parts."""
    while (part := await stream.read()) is not grpc.aio.EOF:
        (said if said is not None else []).append(part)


@pytest.mark.parametrize(
    ("method", "path", "kind", "answer_kind", "body"),
    [
        ("Inference/Chat", "/v1/chat/completions", ChatRequest, ChatResponse, HI),
        (
            "Inference/Chat",
            "/v1/chat/completions",
            ChatRequest,
            ChatResponse,
            HI | {"logprobs": True, "top_logprobs": 1, "temperature": 0.0, "stop": ["x"], "seed": 3, "max_tokens": 4},
        ),
        ("Inference/Chat", "/v1/chat/completions", ChatRequest, ChatResponse, HI | {"model": "safety"}),
        (
            "Inference/Complete",
            "/v1/completions",
            CompleteRequest,
            CompleteResponse,
            {"model": "base", "prompt": ["ab", "c"], "logprobs": 1, "max_tokens": 3},
        ),
        (
            "Inference/Complete",
            "/v1/completions",
            CompleteRequest,
            CompleteResponse,
            {"model": "base", "prompt": [[97, 98]], "max_tokens": 3},
        ),
    ],
)
async def test_an_answer_is_that_of_http(
    caller: GrpcCaller,
    http: httpx.AsyncClient,
    method: str,
    path: str,
    kind: type[Message],
    answer_kind: type[Message],
    body: dict[str, Any],
) -> None:
    own = await caller.answer(method, message_of(kind, body), answer_kind)
    its = (await http.post(path, json=body)).json()
    assert without_times(json_of(own)) == without_nulls(without_times(its))
    serving = json_of(own)["serving"]
    assert serving["kind"] == ("base" if body["model"] == "base" else "alora")
    assert (await http.get(f"/v1/receipts/{serving['receipt_id']}")).status_code == 200


def test_the_first_token_of_an_echo_has_no_alternatives() -> None:
    logprobs = {"tokens": ["a", "b"], "token_logprobs": [None, -1.0], "top_logprobs": [None, {"b": -1.0}]}
    body = {"choices": [{"index": 0, "text": "ab", "logprobs": logprobs | {"text_offset": [0, 1]}}]}
    [choice] = json_of(message_of(CompleteResponse, body))["choices"]
    assert choice["logprobs"]["token_logprobs"] == [None, -1.0]
    assert [*map(dict, choice["logprobs"]["top_logprobs"])] == [{}, {"b": -1.0}]


@pytest.mark.parametrize("fields", [{}, {"logprobs": True, "top_logprobs": 1}])
async def test_a_streamed_chat_adds_up_to_the_whole_one(caller: GrpcCaller, fields: dict[str, Any]) -> None:
    whole = await caller.answer("Inference/Chat", chat(**fields), ChatResponse)
    parts = await caller.parts("Inference/ChatStream", chat(**fields), ChatStreamResponse)
    assert "".join(choice.delta.content for part in parts for choice in part.choices) == "ab"
    first, last = parts[0], parts[-1]
    assert (first.model, first.id.partition("-")[0], first.choices[0].delta.role) == ("base", "chatcmpl", "assistant")
    assert first.serving.replica == whole.serving.replica
    assert last.usage == whole.usage
    shown = [token for part in parts for choice in part.choices for token in choice.logprobs.content]
    assert shown == list(whole.choices[0].logprobs.content)
    assert [choice.finish_reason for part in parts for choice in part.choices if choice.finish_reason] == ["stop"]


async def test_a_streamed_completion_of_several_prompts(caller: GrpcCaller) -> None:
    message = complete(prompt=["ab", "c"], max_tokens=3)
    parts = await caller.parts("Inference/CompleteStream", message, CompleteStreamResponse)
    texts = {0: "", 1: ""}
    for part in parts:
        for choice in part.choices:
            texts[choice.index] += choice.text
    assert texts == {0: "ab", 1: "ab"}
    assert parts[-1].usage.completion_tokens == 4


@pytest.mark.parametrize(
    "fields",
    [
        {"model": ""},
        {"model": "nobody"},
        {"temperature": 9.0},
        {"n": 99},
        {"messages": [{"role": "wizard", "content": "x"}]},
        {"messages": []},
        {"top_logprobs": 3},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": "nonsense"}}},
        {"chat_template_kwargs": {"a b": 1}},
        {"max_tokens": 4096},
        {"modalities": ["audio"]},
    ],
)
async def test_a_refusal_is_that_of_http_and_names_the_same_field(
    caller: GrpcCaller, http: httpx.AsyncClient, fields: dict[str, Any]
) -> None:
    error = await refused(caller.unary("Inference/Chat", chat(**fields)))
    # What has no presence in a message is absent where it is empty.
    body = {name: value for name, value in (HI | fields).items() if value not in ([], "")}
    reply = await http.post("/v1/chat/completions", json=body)
    its = reply.json()["error"]
    assert (error.details(), reply.status_code // 100) == (its["message"], 4)
    assert error.code() is (Code.NOT_FOUND if reply.status_code == 404 else Code.INVALID_ARGUMENT)
    details = details_of(error)
    assert details["ErrorInfo"].domain == "aloraserve"
    assert details["ErrorInfo"].reason == (its["code"] or its["type"]).upper()
    if its["param"]:
        assert [violation.field for violation in details["BadRequest"].field_violations] == [its["param"]]


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xff\xff",
        b"\x0a\x05ab",
        b"\x0a\x02\xed\xa0",
        ChatRequest(model="x").SerializeToString().replace(b"x", b"\x80"),
        b"\x12\x04\x12\x02\xff\xfe",
    ],
)
@pytest.mark.parametrize("method", ["Inference/Chat", "Inference/ChatStream", "Intrinsics/Run"])
async def test_bytes_that_are_not_the_message_are_the_client_s_fault(
    caller: GrpcCaller, method: str, raw: bytes
) -> None:
    call = read(caller.stream(method, raw)) if method.endswith("Stream") else caller.unary(method, raw)
    error = await refused(call)
    assert error.code() is Code.INVALID_ARGUMENT
    assert "malformed" in (error.details() or "")


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ('{"temperature": "\\ud800"}', "extra_json"),
        ('{"model": "other"}', "model"),
        ("[1]", "extra_json"),
        ('{"a":', "extra_json"),
        ('{"stream": true}', "stream"),
        ('{"seed": 1, "seed": 2}', "the key 'seed' twice"),
        ('{"user": {"a": 1, "a": 2}}', "the key 'a' twice"),
        ("[" * 5000, "extra_json"),
    ],
)
async def test_further_fields_are_checked_as_http_checks_them(caller: GrpcCaller, extra: str, named: str) -> None:
    message = ChatRequest(model="base", messages=[{"role": "user", "content": "hi"}], extra_json=extra)  # type: ignore[list-item]
    error = await refused(caller.unary("Inference/Chat", message))
    assert error.code() is Code.INVALID_ARGUMENT
    assert named in (error.details() or "")


async def test_json_text_cannot_close_the_body_it_stands_in(caller: GrpcCaller) -> None:
    message = chat()
    message.chat_template_kwargs_json = '{}, "model": "safety"'
    error = await refused(caller.unary("Inference/Chat", message))
    assert "'chat_template_kwargs_json' is not JSON" in (error.details() or "")


async def test_fields_that_nobody_knows_are_named(caller: GrpcCaller) -> None:
    call = caller.unary("Inference/Chat", chat(harmless=1))
    await call
    assert dict(await call.trailing_metadata())["x-aloraserve-ignored"] == "harmless"


async def test_an_unknown_method_is_unimplemented(caller: GrpcCaller) -> None:
    assert (await refused(caller.unary("Inference/Dance", b""))).code() is Code.UNIMPLEMENTED


async def test_request_ids_are_kept_if_they_are_plain(caller: GrpcCaller) -> None:
    call = caller.unary("Inference/Chat", chat(), [("x-request-id", "mine-1")])
    assert ChatResponse.FromString(await call).id == "chatcmpl-mine-1"
    assert dict(await call.trailing_metadata())["x-request-id"] == "mine-1"
    error = await refused(caller.unary("Inference/Chat", b"\xff", [("x-request-id", "not plain")]))
    assert len(dict(error.trailing_metadata())["x-request-id"]) == 32


async def test_who_may_not_call_is_refused_before_a_message_is_read(
    open_gateway: Callable[..., Gateway], replies: list[Any]
) -> None:
    keys = {"api_keys": {"ada": SecretStr(ADA)}, "admin_keys": {"root": SecretStr(ADMIN)}}
    async with served(open_gateway(max_model_len=512, **keys).grpc_edge(), max_message_bytes=1000) as caller:
        for metadata in ([], [("authorization", "Bearer nobody")], [("authorization", ADA)]):
            # Longer than is accepted, and not even a message.
            error = await refused(caller.unary("Inference/Chat", b"\xff" * 5000, metadata))
            assert error.code() is Code.UNAUTHENTICATED
            assert ADA not in str(error)
        key = [("authorization", f"Bearer {ADA}")]
        answer = await caller.answer("Inference/Chat", chat(), ChatResponse, key)
        assert answer.usage.completion_tokens == 2
        # Why a replica was chosen is of all tenants' load.
        assert (answer.serving.policy != "", answer.serving.reason) == (True, "")
        error = await refused(caller.unary("Inference/Chat", b"\xff" * 5000, key))
        assert error.code() is Code.RESOURCE_EXHAUSTED
        error = await refused(caller.unary("Adapters/List", ListRequest(), key))
        assert error.code() is Code.PERMISSION_DENIED
        admin = [("authorization", f"Bearer {ADMIN}")]
        assert not (await caller.answer("Adapters/List", ListRequest(), ListResponse, admin)).data
        # Probes have no key.
        health = await caller.answer("grpc.health.v1.Health/Check", HealthCheckRequest(), HealthCheckResponse)
        assert health.status == HealthCheckResponse.SERVING


async def test_a_client_s_deadline_or_its_leaving_ends_the_generation(
    caller: GrpcCaller, gateway: Gateway, replies: list[Any]
) -> None:
    for leave in (False, True):
        waiting = WaitingReplies()
        replies.append(waiting)
        stream = caller.stream("Inference/ChatStream", chat(), timeout=None if leave else 0.3)
        await stream.read()
        if leave:
            stream.cancel()
        else:
            assert (await refused(read(stream))).code() is Code.DEADLINE_EXCEEDED
        async with asyncio.timeout(60):
            await waiting.cancelled.wait()
    async with asyncio.timeout(60):
        assert await gateway.slots.drain(5) == 0


async def test_a_client_that_does_not_read_does_not_keep_its_generation(
    open_gateway: Callable[..., Gateway], replies: list[Any]
) -> None:
    edge = open_gateway(max_model_len=512, stall_timeout_s=0.2).grpc_edge()
    endless = ScriptedReplies([EngineChunk(0, "x" * 10_000, 1)] * 100_000)
    replies.append(endless)
    async with served(edge) as caller:
        stream = caller.stream("Inference/ChatStream", chat(), timeout=None)
        await stream.read()
        async with asyncio.timeout(60):
            while not endless.is_cancelled:
                edge.expire()
                await asyncio.sleep(0.05)


async def test_a_replica_lost_amid_an_answer_is_a_status_after_what_was_said(
    caller: GrpcCaller, replies: list[Any]
) -> None:
    replies.append(ScriptedReplies([EngineChunk(0, "a", 1), ReplicaLostError("the replica was lost")]))
    said: list[bytes] = []
    error = await refused(read(caller.stream("Inference/ChatStream", chat()), said))
    choices = [choice for part in said for choice in ChatStreamResponse.FromString(part).choices]
    assert [choice.delta.content for choice in choices if choice.delta.content] == ["a"]
    assert error.code() is Code.UNAVAILABLE
    assert details_of(error)["ErrorInfo"].reason == "REPLICA_LOST"


async def test_nothing_unforeseen_reaches_a_client(caller: GrpcCaller, replies: list[Any], caplog: Any) -> None:
    for method in ("Chat", "ChatStream"):
        replies.append(ScriptedReplies([EngineChunk(0, "a", 1), ZeroDivisionError("/secret/path")]))
        call = caller.stream if method == "ChatStream" else caller.unary
        error = await refused(
            read(call(f"Inference/{method}", chat())) if method == "ChatStream" else call(f"Inference/{method}", chat())
        )
        assert (error.code(), error.details()) == (Code.INTERNAL, "internal error")


async def test_calls_are_counted_by_method_and_by_http_s_status(
    caller: GrpcCaller, registry: CollectorRegistry
) -> None:
    await caller.answer("Inference/Chat", chat(), ChatResponse)
    await refused(caller.unary("Inference/Chat", chat(model="nobody")))
    await refused(caller.unary("Inference/Dance", b""))
    counted = {
        (sample.labels["endpoint"], sample.labels["status"]): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "aloraserve_requests_total" and sample.value
    }
    name = "/aloraserve.v1.Inference/Chat"
    assert counted == {(name, "200"): 1, (name, "404"): 1}


async def test_health_follows_replicas_and_drain(caller: GrpcCaller, gateway: Gateway) -> None:
    watch = caller.stream("grpc.health.v1.Health/Watch", HealthCheckRequest(service="aloraserve.v1.Inference"))
    statuses = HealthCheckResponse
    assert HealthCheckResponse.FromString(await watch.read()).status == statuses.SERVING
    note_replicas("engine", "test", [])
    assert HealthCheckResponse.FromString(await watch.read()).status == statuses.NOT_SERVING
    note_replicas("engine", "test", ["a"])
    assert HealthCheckResponse.FromString(await watch.read()).status == statuses.SERVING
    gateway.slots.announce()
    assert HealthCheckResponse.FromString(await watch.read()).status == statuses.NOT_SERVING
    await caller.unary("Inference/Chat", chat())
    await gateway.slots.drain(0)
    error = await refused(caller.unary("Inference/Chat", b"\xff"))
    assert error.code() is Code.UNAVAILABLE
    assert details_of(error)["RetryInfo"].retry_delay.seconds == 1
    error = await refused(caller.unary("grpc.health.v1.Health/Check", HealthCheckRequest(service="nobody")))
    assert error.code() is Code.NOT_FOUND


async def test_what_is_left_at_the_end_is_told_so(gateway: Gateway, replies: list[Any]) -> None:
    replies.append(WaitingReplies())
    edge = gateway.grpc_edge()
    async with served(edge) as caller:
        stream = caller.stream("Inference/ChatStream", chat(), timeout=None)
        await stream.read()
        edge.cut_off()
        error = await refused(read(stream))
    assert (error.code(), error.details()) == (
        Code.UNAVAILABLE,
        "the gateway has stopped; the answer is incomplete",
    )


async def test_reflection_describes_these_services_alone(gateway: Gateway) -> None:
    from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

    async with served(gateway.grpc_edge()) as caller:
        for version in ("v1", "v1alpha"):
            method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
            talk = caller.channel.stream_stream(method)
            asked = [
                ServerReflectionRequest(list_services=""),
                ServerReflectionRequest(file_containing_symbol="aloraserve.v1.Inference"),
                ServerReflectionRequest(file_containing_symbol="google.protobuf.FileDescriptorSet"),
            ]
            answers = talk(iter([question.SerializeToString() for question in asked]))
            listed, file, foreign = [ServerReflectionResponse.FromString(raw) async for raw in answers]
            assert [service.name for service in listed.list_services_response.service] == [
                "aloraserve.v1.Adapters",
                "aloraserve.v1.Inference",
                "aloraserve.v1.Intrinsics",
                "grpc.health.v1.Health",
            ]
            assert len(file.file_descriptor_response.file_descriptor_proto) > 1
            assert foreign.error_response.error_code == Code.NOT_FOUND.value[0]
            error = await refused(read(talk(iter([b"\xff"]))))
            assert error.code() is Code.INVALID_ARGUMENT


async def test_on_a_public_address_nothing_is_described(open_gateway: Callable[..., Gateway]) -> None:
    edge = open_gateway(host="0.0.0.0", api_keys={"ada": SecretStr(ADA)}).grpc_edge()
    async with served(edge) as caller:
        method = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        error = await refused(read(caller.channel.stream_stream(method)(iter([b""]))))
    assert error.code() is Code.UNIMPLEMENTED


async def test_a_compressed_message_is_refused(gateway: Gateway) -> None:
    async with served(gateway.grpc_edge()) as caller:
        call = caller.channel.unary_unary("/aloraserve.v1.Inference/Chat")
        message = chat(messages=[{"role": "user", "content": "x" * 500_000}]).SerializeToString()
        error = await refused(call(message, compression=grpc.Compression.Gzip))
    assert error.code() is Code.UNIMPLEMENTED


async def test_a_message_that_never_comes_is_not_waited_for(
    open_gateway: Callable[..., Gateway], replies: list[Any]
) -> None:
    edge = open_gateway(max_model_len=512, body_timeout_s=0.2).grpc_edge()
    async with served(edge) as caller:
        call = caller.channel.stream_unary("/aloraserve.v1.Inference/Chat")()
        async with asyncio.timeout(60):
            error = await refused(call)
    assert (error.code(), error.details()) == (
        Code.DEADLINE_EXCEEDED,
        "the message did not arrive within 0.2 s",
    )


async def test_intrinsics_fail_one_by_one(caller: GrpcCaller) -> None:
    message = message_of(RunRequest, {"messages": HI["messages"], "intrinsics": [{"name": "nobody"}], "timeout_s": 5.0})
    [result] = (await caller.answer("Intrinsics/Run", message, RunResponse)).results
    assert (result.status, result.status_code, result.error.code) == ("error", 404, "model_not_found")
    assert json.loads(result.extra_json or "{}") == {}


async def test_parts_that_come_at_once_leave_together_and_the_first_one_at_once(
    caller: GrpcCaller, replies: list[Any]
) -> None:
    replies.append(ScriptedReplies([*(EngineChunk(0, "x", 1) for _ in range(200)), EngineChunk(0, "y", 1, "stop")]))
    parts = await caller.parts("Inference/ChatStream", chat(max_tokens=300), ChatStreamResponse)
    texts = [choice.delta.content for part in parts for choice in part.choices if choice.delta.content]
    assert "".join(texts) == "x" * 200 + "y"
    assert len(parts) < 100
    assert parts[0].choices[0].delta.role == "assistant"
    assert parts[-1].usage.completion_tokens == 201
