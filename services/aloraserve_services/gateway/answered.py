"""HTTP responses to calls: whole or streamed, begun in time, once per key."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from aloraserve.serving.request import Origin
from aloraserve.wire.sampling_fields import SamplingFields
from aloraserve_services.gateway.answers import Answer
from aloraserve_services.gateway.answers.forms import SSE
from aloraserve_services.gateway.calls import BegunCall
from aloraserve_services.gateway.early_stream import begun_in_time
from aloraserve_services.gateway.event_stream import Ending, EventStream
from aloraserve_services.gateway.headers import serving_headers
from aloraserve_services.gateway.idempotency import KEY_HEADER, IdempotentAnswers, refuse_key


class CallResponses:
    """Makes the responses of every route whose answer is generated.

    Args:
        idempotent: answers of requests with keys.
        comment_s: how long the reader of a stream may see nothing.
        fingerprint: of the platform.
    """

    def __init__(self, idempotent: IdempotentAnswers, comment_s: float, fingerprint: str | None = None) -> None:
        self._idempotent = idempotent
        self._comment_s = comment_s
        self._fingerprint = fingerprint

    async def respond(
        self,
        request: Request,
        origin: Origin,
        body: SamplingFields,
        answer: Callable[[], Coroutine[Any, Any, Response]],
        ending: Ending = SSE.ending,
    ) -> Response:
        """Return an answer: a stream within a time in which proxies wait for it, any other once per key.

        Args:
            request: of the client.
            origin: of the request.
            body: of the request.
            answer: returns the response, or raises.
            ending: writes the end of a stream that fails before its first token.
        """
        if body.stream:
            refuse_key(request.headers.get(KEY_HEADER))
            return await begun_in_time(answer(), self._comment_s, ending)
        return await self._idempotent.once(
            request.headers.get(KEY_HEADER), request.url.path, origin.caller, body, answer
        )

    async def answered(self, answer: Answer, call: BegunCall) -> Response:
        """Return the response to a call.

        Args:
            answer: writes it.
            call: that has begun.
        """
        answer.fingerprint = self._fingerprint
        headers = serving_headers(call.first)
        if call.request.is_streamed:
            events = answer.stream(call.chunks, include_usage=call.include_usage)
            return EventStream(events, call, headers, answer.ending, self._comment_s)
        async with call:
            return json_response(await answer.whole(call.chunks), headers)


def json_response(text: str, headers: dict[str, str] | None = None) -> Response:
    """Return a response that is JSON.

    Args:
        text: the JSON.
        headers: beside the usual ones.
    """
    return Response(text, media_type="application/json", headers=headers)
