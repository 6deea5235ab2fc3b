"""Calls over gRPC that are sent again under one key cost one answer and get that one, as requests of HTTP do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from pydantic import SecretStr
from support.fake_engines import ANSWER, Engines, WaitingReplies
from support.fake_pool import ScriptedReplies
from support.grpc_caller import GrpcCaller, details_of, served

from aloraserve.serving.engine_messages import EngineCall
from aloraserve.v1.chat_pb2 import ChatRequest, ChatResponse
from aloraserve.v1.completion_pb2 import CompleteRequest, CompleteResponse
from aloraserve.v1.intrinsics_pb2 import RunRequest, RunResponse
from aloraserve.wire.protobuf import message_of
from aloraserve_services.gateway.deployment import Gateway

HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
CHAT = message_of(ChatRequest, HI | {"model": "base"})
COMPLETE = message_of(CompleteRequest, {"model": "base", "prompt": ["hi"]})
RUN = message_of(RunRequest, HI | {"intrinsics": [{"name": "nobody"}]})
CALLS = pytest.mark.parametrize(
    ("method", "message", "kind"),
    [
        ("Inference/Chat", CHAT, ChatResponse),
        ("Inference/Complete", COMPLETE, CompleteResponse),
        ("Intrinsics/Run", RUN, RunResponse),
    ],
)
KEYS = {"ada": "ada-key-0123456789", "bob": "bob-key-0123456789"}


def metadata(key: str | None = "order-1", who: str = "ada") -> list[tuple[str, str]]:
    own = [("authorization", f"Bearer {KEYS[who]}")]
    return own if key is None else [*own, ("idempotency-key", key)]


class Counted:
    """What engines answer, and how often."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.replies: list[ScriptedReplies] = []
        self.calls = 0
        counted = self

        def dispatch(self: Engines, selection: Any, call: EngineCall) -> ScriptedReplies:
            counted.calls += 1
            return counted.replies.pop(0) if counted.replies else ScriptedReplies(ANSWER)

        monkeypatch.setattr(Engines, "dispatch", dispatch)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


@pytest.fixture
async def caller(open_gateway: Callable[..., Gateway], engines: Counted) -> AsyncIterator[GrpcCaller]:
    keys = {name: SecretStr(key) for name, key in KEYS.items()}
    async with served(open_gateway(max_model_len=512, api_keys=keys).grpc_edge()) as caller:
        yield caller


async def ask(caller: GrpcCaller, method: str, message: Message, kind: type[Any], sent: Any) -> tuple[Any, bool]:
    """Return an answer, and whether it is one that was given before."""
    call = caller.unary(method, message, sent)
    answer = kind.FromString(await call)
    return answer, dict(await call.trailing_metadata()).get("idempotent-replayed") == "true"


@CALLS
async def test_a_call_sent_again_gets_the_same_answer_and_costs_nothing(
    caller: GrpcCaller, engines: Counted, method: str, message: Message, kind: type[Any]
) -> None:
    first, was_replayed = await ask(caller, method, message, kind, metadata())
    again, is_replayed = await ask(caller, method, message, kind, metadata())
    assert (again, was_replayed, is_replayed) == (first, False, True)
    assert engines.calls == (0 if method == "Intrinsics/Run" else 1)
    for sent in (metadata(None), metadata("order-2"), metadata(who="bob")):
        other, is_replayed = await ask(caller, method, message, kind, sent)
        assert (other.id != first.id, is_replayed) == (True, False)


async def test_a_retry_after_a_lost_connection_waits_for_the_first_answer(caller: GrpcCaller, engines: Counted) -> None:
    gate = asyncio.Event()

    class Held(ScriptedReplies):
        async def __anext__(self) -> Any:
            await gate.wait()
            return await super().__anext__()

    engines.replies.append(Held(ANSWER))
    asked = [asyncio.create_task(ask(caller, "Inference/Chat", CHAT, ChatResponse, metadata())) for _ in range(3)]
    while not engines.calls:  # noqa: ASYNC110 - engines report to nobody
        await asyncio.sleep(0.005)
    gate.set()
    answers = [(await each)[0] for each in asked]
    assert (len({answer.id for answer in answers}), engines.calls) == (1, 1)


async def test_a_call_that_its_client_gave_up_leaves_its_key_free(caller: GrpcCaller, engines: Counted) -> None:
    waiting = WaitingReplies()
    engines.replies.append(waiting)
    first = asyncio.create_task(ask(caller, "Inference/Chat", CHAT, ChatResponse, metadata()))
    await asyncio.wait_for(waiting.waiting.wait(), 10)
    first.cancel()
    _, is_replayed = await ask(caller, "Inference/Chat", CHAT, ChatResponse, metadata())
    assert (is_replayed, engines.calls) == (False, 2)


@pytest.mark.parametrize(
    ("method", "message", "key", "code", "said"),
    [
        (
            "Inference/Chat",
            message_of(ChatRequest, HI | {"model": "base", "n": 2}),
            "order-1",
            "reused",
            "another request",
        ),
        ("Inference/Chat", CHAT, "a b", "invalid", "1 to 255 printable ASCII characters"),
        ("Inference/ChatStream", CHAT, "order-1", "invalid", "a streamed answer cannot be given again"),
        ("Inference/CompleteStream", COMPLETE, "order-1", "invalid", "a streamed answer cannot be given again"),
    ],
)
async def test_what_http_refuses_is_refused(
    caller: GrpcCaller, engines: Counted, method: str, message: Message, key: str, code: str, said: str
) -> None:
    await ask(caller, "Inference/Chat", CHAT, ChatResponse, metadata())
    call = (
        caller.parts(method, message, ChatResponse, metadata(key))
        if method.endswith("Stream")
        else caller.unary(method, message, metadata(key))
    )
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    assert said in (refused.value.details() or "")
    expected = {"reused": "IDEMPOTENCY_KEY_REUSED", "invalid": "INVALID_REQUEST_ERROR"}
    assert details_of(refused.value)["ErrorInfo"].reason == expected[code]
    assert engines.calls == 1
