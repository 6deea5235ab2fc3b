"""Calls that are sent again under one ``idempotency-key`` of their metadata: one answer, as over HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from google.protobuf.message import Message
from starlette.responses import Response

from aloraserve.wire.fields import RequestPart
from aloraserve_services.gateway.grpc.call import GrpcCall
from aloraserve_services.gateway.idempotency import IdempotentAnswers
from aloraserve_services.gateway.kept_answers import REPLAYED_HEADER

Kind = TypeVar("Kind", bound=Message)


class RepeatedCalls:
    """See the module's docstring.

    Args:
        idempotent: answers of requests with keys.
    """

    def __init__(self, idempotent: IdempotentAnswers) -> None:
        self._idempotent = idempotent

    async def once(
        self, kind: type[Kind], method: str, call: GrpcCall, body: RequestPart, answer: Callable[[], Awaitable[Kind]]
    ) -> Kind:
        """Return the answer to a call: once more, if it has had one under its key.

        Args:
            kind: of the answer.
            method: full name of what is called.
            call: that may have a key.
            body: of the request, validated.
            answer: gives the answer.

        Raises:
            AloraserveError: as :meth:`IdempotentAnswers.once` does.
        """
        if call.idempotency_key is None:
            return await answer()

        async def kept() -> Response:
            return Response((await answer()).SerializeToString())

        response = await self._idempotent.once(call.idempotency_key, method, call.caller, body, kept)
        call.is_replayed = REPLAYED_HEADER in response.headers
        return kind.FromString(bytes(response.body))
