"""Clients of the gRPC edge for benchmarks, with the same calls and figures as those of HTTP."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from aloraserve.v1.chat_pb2 import ChatRequest, ChatStreamResponse
from aloraserve.wire.answer_stream import CallFailedError
from aloraserve.wire.protobuf import message_of
from benchmarks.gateway_calls import Arm
from benchmarks.harness.counting_client import TIMEOUT_S, CountedAnswer

METHOD = "/aloraserve.v1.Inference/Chat"
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


class CountingGrpcClient:
    """One connection, one call at a time; it reads of a message how many additions it has.

    Args:
        target: ``host:port``.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._channel: Any = None

    async def call(self, path: str, body: Mapping[str, Any]) -> CountedAnswer:
        """Make the call that a chat's body asks for.

        Raises:
            CallFailedError: its status is an error.
        """
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(self._target, OWN_CONNECTION)
        fields = {name: value for name, value in body.items() if name != "stream"}
        message = message_of(ChatRequest, fields).SerializeToString()
        try:
            return await (self._stream(message) if body.get("stream") else self._whole(message))
        except grpc.aio.AioRpcError as error:
            raise CallFailedError(f"{error.code().name}: {str(error.details())[:200]}") from None

    def close(self) -> None:
        """Leave the connection to the end of the process: closing it takes an event loop."""
        self._channel = None

    async def _whole(self, message: bytes) -> CountedAnswer:
        started = time.perf_counter()
        await self._channel.unary_unary(METHOD)(message, timeout=TIMEOUT_S)
        took_s = time.perf_counter() - started
        return CountedAnswer(took_s, took_s, 0)

    async def _stream(self, message: bytes) -> CountedAnswer:
        started, first_s, events = time.perf_counter(), 0.0, 0
        call = self._channel.unary_stream(f"{METHOD}Stream")(message, timeout=TIMEOUT_S)
        while (raw := await call.read()) is not grpc.aio.EOF:
            part = ChatStreamResponse.FromString(raw)
            events += len(part.choices)
            if not first_s and any(choice.delta.content for choice in part.choices):
                first_s = time.perf_counter() - started
        ended_s = time.perf_counter() - started
        return CountedAnswer(first_s or ended_s, ended_s, events)


@dataclass(frozen=True, slots=True)
class GrpcArm(Arm):
    """The gRPC edge of a platform."""

    def clients(self, count: int) -> list[Any]:
        """See the base."""
        return [CountingGrpcClient(self.urls[number % len(self.urls)]) for number in range(count)]
