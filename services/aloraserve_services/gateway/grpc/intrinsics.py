"""``aloraserve.v1.Intrinsics``: several intrinsics over one conversation."""

from __future__ import annotations

from google.protobuf.message import Message

from aloraserve.v1.intrinsics_pb2 import RunRequest, RunResponse
from aloraserve.wire.intrinsics import IntrinsicsRequest
from aloraserve.wire.protobuf import message_of
from aloraserve_services.gateway.grpc.call import GrpcCall
from aloraserve_services.gateway.grpc.method import GrpcMethod
from aloraserve_services.gateway.grpc.repeated import RepeatedCalls
from aloraserve_services.gateway.grpc.requests import read_call
from aloraserve_services.gateway.intrinsics import IntrinsicCalls

RUN = "/aloraserve.v1.Intrinsics/Run"


class IntrinsicMethods:
    """See the module's docstring.

    Args:
        calls: answer requests.
        repeated: calls that are sent again.
        max_bytes: the longest body that is accepted, as JSON.
    """

    def __init__(self, calls: IntrinsicCalls, repeated: RepeatedCalls, max_bytes: int) -> None:
        self._calls = calls
        self._repeated = repeated
        self._max_bytes = max_bytes

    def methods(self) -> dict[str, GrpcMethod]:
        """Return the method by its name."""
        return {RUN: GrpcMethod(answer=self.run, is_call=True)}

    async def run(self, message: bytes, call: GrpcCall) -> Message:
        """Run intrinsics over a conversation."""
        body = await read_call(
            RunRequest, IntrinsicsRequest, message, call, is_streamed=False, max_bytes=self._max_bytes
        )
        return await self._repeated.once(RunResponse, RUN, call, body, lambda: self._answer(body, call))

    async def _answer(self, body: IntrinsicsRequest, call: GrpcCall) -> RunResponse:
        answer = await self._calls.answer(body, call.origin)
        return message_of(RunResponse, answer.model_dump(exclude_none=True))
