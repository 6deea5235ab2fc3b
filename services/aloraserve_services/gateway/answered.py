"""The HTTP response to a call that has begun."""

from __future__ import annotations

from starlette.responses import Response

from aloraserve_services.gateway.answers import Answer
from aloraserve_services.gateway.calls import BegunCall
from aloraserve_services.gateway.event_stream import EventStream
from aloraserve_services.gateway.headers import serving_headers


async def answered(answer: Answer, call: BegunCall) -> Response:
    """Return the response to a call.

    Args:
        answer: writes it.
        call: that has begun.
    """
    headers = serving_headers(call.first)
    if call.request.is_streamed:
        return EventStream(answer.stream(call.chunks, include_usage=call.include_usage), call, headers)
    async with call:
        return json_response(await answer.whole(call.chunks), headers)


def json_response(text: str, headers: dict[str, str] | None = None) -> Response:
    """Return a response that is JSON.

    Args:
        text: the JSON.
        headers: beside the usual ones.
    """
    return Response(text, media_type="application/json", headers=headers)
