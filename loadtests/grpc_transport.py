"""A load test's calls over gRPC; names come over HTTP.

gRPC's channel blocks threads; with gevent it blocks a greenlet alone, once :func:`cooperate` was called.
"""

from __future__ import annotations

import time
from typing import Any

import grpc

from aloraserve.v1.chat_pb2 import ChatRequest, ChatStreamResponse
from aloraserve.v1.usage_pb2 import Serving, Usage
from aloraserve.wire.answer_stream import CallFailedError, StreamedAnswer
from aloraserve.wire.protobuf import message_of
from loadtests.texts import Message
from loadtests.transport import BODY, Transport

METHOD = "/aloraserve.v1.Inference/ChatStream"
TIMEOUT_S = 600.0


def cooperate() -> None:
    """Have gRPC wait in greenlets; call it once, before the first channel."""
    import grpc.experimental.gevent

    grpc.experimental.gevent.init_gevent()


class GrpcTransport:
    """See :class:`~loadtests.transport.Transport`.

    Args:
        target: ``host:port`` of the gRPC API.
        http: of the same platform.
        api_key: None for a platform without keys.
    """

    def __init__(self, target: str, http: Transport, api_key: str | None = None) -> None:
        self._channel = grpc.insecure_channel(target)
        self._http = http
        self._metadata = [("authorization", f"Bearer {api_key}")] if api_key else []

    def chat(self, model: str, messages: list[Message], max_tokens: int) -> StreamedAnswer:
        """See the contract."""
        fields = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0.0, **BODY}
        request = message_of(ChatRequest, fields).SerializeToString()
        started = time.perf_counter()
        try:
            call = self._channel.unary_stream(METHOD)(request, metadata=self._metadata, timeout=TIMEOUT_S)
            return _read(call, started)
        except grpc.RpcError as error:
            status: Any = error
            raise CallFailedError(f"{status.code().name}: {str(status.details())[:200]}") from None

    def models(self) -> list[str]:
        """See the contract."""
        return self._http.models()

    def close(self) -> None:
        """See the contract."""
        self._channel.close()
        self._http.close()


def _read(call: Any, started: float) -> StreamedAnswer:
    texts, first_s, last_s = list[str](), 0.0, 0.0
    serving, usage = Serving(), Usage()
    for raw in call:
        part = ChatStreamResponse.FromString(raw)
        # A role is not a token; an untrained adapter's first one may be without text.
        if any(choice.delta.HasField("content") for choice in part.choices):
            last_s = time.perf_counter() - started
            first_s = first_s or last_s
        texts += (choice.delta.content for choice in part.choices)
        serving.MergeFrom(part.serving)
        usage.MergeFrom(part.usage)
    return _answer("".join(texts), first_s, last_s, serving, usage)


def _answer(text: str, first_s: float, last_s: float, serving: Serving, usage: Usage) -> StreamedAnswer:
    savings = usage.aloraserve
    return StreamedAnswer(
        text=text,
        ttft_s=first_s,
        e2e_s=last_s,
        completion_tokens=usage.completion_tokens,
        prompt_tokens=serving.prompt_tokens,
        cached_tokens=serving.cached_tokens,
        replica=serving.replica,
        reason=serving.reason,
        policy=serving.policy,
        prefill_s=serving.prefill_ms / 1000,
        saved_s=savings.saved_ttft_ms / 1000 if usage.HasField("aloraserve") else None,
        savings_confidence=savings.confidence,
    )
