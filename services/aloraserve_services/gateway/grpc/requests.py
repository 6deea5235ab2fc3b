"""Messages as the bodies that HTTP has: the same models validate them, and say the same of what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
from google.protobuf.message import DecodeError, Message

from aloraserve.errors import InvalidRequestError
from aloraserve.wire import parse_body
from aloraserve.wire.fields import CallFields, RequestPart
from aloraserve.wire.protobuf import json_of
from aloraserve_services.gateway.grpc.call import GrpcCall
from aloraserve_services.gateway.request_body import SHORT_BODY_BYTES

STREAM_FIELDS = ("stream", "stream_options")
"""Fields of HTTP's bodies that a method's name says here."""
_encode = msgspec.json.Encoder().encode
Body = TypeVar("Body", bound=RequestPart)
Kind = TypeVar("Kind", bound=Message)
Result = TypeVar("Result")


def parsed(kind: type[Kind], raw: bytes) -> Kind:
    """Return a message.

    Raises:
        InvalidRequestError: it is not one of this kind.
    """
    try:
        return kind.FromString(raw)
    except DecodeError:
        raise InvalidRequestError(
            f"the message is not a valid {kind.DESCRIPTOR.full_name}: its bytes are malformed, or a text is not UTF-8"
        ) from None


async def read_call(
    message: type[Message], body: type[Body], raw: bytes, call: GrpcCall, *, is_streamed: bool, max_bytes: int
) -> Body:
    """Return the body of a call of a model; a long one is read in a thread.

    Args:
        message: what it came as.
        body: what HTTP has.
        raw: bytes of the message.
        call: notes the names of fields that are passed over.
        is_streamed: whether the answer is to be streamed.
        max_bytes: the longest body that is accepted, as JSON.

    Raises:
        InvalidRequestError: the message, or a field of it, is wrong.
    """

    def read() -> Body:
        content = json_of(parsed(message, raw))
        _refuse_stream_fields(content)
        if is_streamed:
            content |= {"stream": True, "stream_options": {"include_usage": True}}
        return parse_body(body, _encode(content), max_bytes)

    read_body = await _off_the_loop(read, raw)
    call.held.release()
    if isinstance(read_body, CallFields):
        call.ignored = read_body.ignored
    return read_body


def read_body(body: type[Body], content: Mapping[str, Any]) -> Body:
    """Return a body made of a short message's fields.

    Raises:
        InvalidRequestError: a field is wrong.
    """
    return parse_body(body, _encode(content))


async def _off_the_loop(read: Callable[[], Result], raw: bytes) -> Result:
    return read() if len(raw) <= SHORT_BODY_BYTES else await asyncio.to_thread(read)


def _refuse_stream_fields(content: Mapping[str, Any]) -> None:
    for name in STREAM_FIELDS:
        if name in content:
            raise InvalidRequestError(f"{name!r} is not accepted here: the method says whether to stream", param=name)
