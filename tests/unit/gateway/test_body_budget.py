"""Memory for requests that are being received: one bound over HTTP and gRPC, and a share of it for each tenant."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable

import grpc
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from support.grpc_caller import GrpcCaller, served
from support.http_server import post, serving

from aloraserve.v1.chat_pb2 import ChatRequest, ChatResponse
from aloraserve.wire.protobuf import message_of
from aloraserve_services.gateway import body_budget
from aloraserve_services.gateway.deployment import Gateway
from aloraserve_services.gateway.grpc import edge

CHAT = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}
BODIES, LONG = 4, 250_000
KEYS = {name: f"{name}-key-0123456789" for name in ("ada", "bob")}

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def gateway(open_gateway: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch) -> Gateway:
    monkeypatch.setattr(body_budget, "TOTAL_BODIES", BODIES)
    monkeypatch.setattr(edge, "MESSAGES_AT_ONCE", 2)
    keys = {name: SecretStr(key) for name, key in KEYS.items()}
    return open_gateway(CollectorRegistry(), max_model_len=512, api_keys=keys)


@pytest.fixture
async def caller(gateway: Gateway) -> AsyncIterator[GrpcCaller]:
    async with served(gateway.grpc_edge()) as caller:
        yield caller


async def refusal(caller: GrpcCaller, tenant: str) -> str:
    """Return why a tenant's call is refused, nothing if it is answered."""
    key = [("authorization", f"Bearer {KEYS[tenant]}")]
    try:
        await caller.answer("Inference/Chat", message_of(ChatRequest, CHAT), ChatResponse, key)
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"
    return ""


async def held(gateway: Gateway, amount: int) -> None:
    while gateway._bodies.budget.held_bytes != amount:  # noqa: ASYNC110 - it reports to nobody
        await asyncio.sleep(0.001)


async def test_a_tenant_s_bodies_leave_room_for_others_and_for_none_of_its_own_messages(
    gateway: Gateway, caller: GrpcCaller
) -> None:
    body = b" " * LONG + json.dumps(CHAT).encode()
    async with serving(gateway.http_app()) as server:
        own = f"authorization: Bearer {KEYS['ada']}"
        opened = [await server.connect() for _ in range(BODIES)]
        for _, writer in opened:
            writer.write(post("/v1/chat/completions", body, own, "connection: close")[:-1])
        await held(gateway, BODIES * (len(body) - 1))
        assert await refusal(caller, "ada") == "RESOURCE_EXHAUSTED: too many long bodies are being read; retry later"
        assert await refusal(caller, "bob") == ""
        for reader, writer in opened:
            writer.write(body[-1:])
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
            writer.close()
    await held(gateway, 0)
    assert await refusal(caller, "ada") == ""


async def test_calls_without_a_message_hold_no_more_than_their_tenant_may_receive_at_once(
    gateway: Gateway, caller: GrpcCaller
) -> None:
    with contextlib.ExitStack() as calls:
        key = [("authorization", f"Bearer {KEYS['ada']}")]
        for _ in range(5):
            silent = caller.channel.stream_unary("/aloraserve.v1.Inference/Chat")(metadata=key)
            calls.callback(silent.cancel)
        await held(gateway, 2 * gateway._bodies.max_bytes)
        assert await refusal(caller, "bob") == ""
    await held(gateway, 0)
