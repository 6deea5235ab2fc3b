"""``aloraserve.v1.Intrinsics``: several intrinsics over one conversation."""

from __future__ import annotations

import time

from google.protobuf.message import Message

from aloraserve.serving.intrinsics.runner import IntrinsicRunner
from aloraserve.v1.intrinsics_pb2 import RunRequest, RunResponse
from aloraserve.wire.intrinsics import DEFAULT_TIMEOUT_S, IntrinsicsAnswer, IntrinsicsRequest
from aloraserve.wire.protobuf import message_of
from aloraserve_services.gateway.grpc.call import GrpcCall
from aloraserve_services.gateway.grpc.method import GrpcMethod
from aloraserve_services.gateway.grpc.requests import read_call
from aloraserve_services.gateway.intrinsic_results import result_of


class IntrinsicMethods:
    """See the module's docstring.

    Args:
        runner: runs the intrinsics.
        base_model: its served name.
        max_bytes: the longest body that is accepted, as JSON.
    """

    def __init__(self, runner: IntrinsicRunner, base_model: str, max_bytes: int) -> None:
        self._runner = runner
        self._base_model = base_model
        self._max_bytes = max_bytes

    def methods(self) -> dict[str, GrpcMethod]:
        """Return the method by its name."""
        return {"/aloraserve.v1.Intrinsics/Run": GrpcMethod(answer=self.run, is_call=True)}

    async def run(self, message: bytes, call: GrpcCall) -> Message:
        """Run intrinsics over a conversation."""
        body = await read_call(
            RunRequest, IntrinsicsRequest, message, call, is_streamed=False, max_bytes=self._max_bytes
        )
        outcomes = await self._runner.run(
            body.conversation(self._base_model), body.items, call.origin, timeout_s=body.timeout_s or DEFAULT_TIMEOUT_S
        )
        results = [result_of(outcome) for outcome in outcomes]
        answer = IntrinsicsAnswer(id=f"intrinsics-{call.request.request_id}", created=int(time.time()), results=results)
        return message_of(RunResponse, answer.model_dump(exclude_none=True))
