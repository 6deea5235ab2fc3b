"""A method of the gRPC edge: what it needs, and what answers it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple, Protocol

from google.protobuf.message import Message

from aloraserve.tenants import Role
from aloraserve_services.gateway.grpc.call import GrpcCall

Answer = Callable[[bytes, GrpcCall], Awaitable[Message]]
"""Returns the answer to a request, which it gets as it came."""
Stream = Callable[[bytes, GrpcCall], Awaitable[None]]
"""Writes the answer to a request."""
Talk = Callable[[AsyncIterator[bytes], GrpcCall], Awaitable[None]]
"""Reads requests, and writes answers."""


class GrpcMethod(NamedTuple):
    """See the module's docstring; one of the first three answers.

    Args:
        answer: of a call with one answer.
        stream: of one with several.
        talk: of one with several requests too.
        role: that the caller needs.
        is_open: whether nobody needs a key.
        is_call: whether it is a call of a model: it has a span, counts as in progress, and is refused while the gateway
            drains or has no room for another one.
    """

    answer: Answer | None = None
    stream: Stream | None = None
    talk: Talk | None = None
    role: Role | None = Role.INVOKE
    is_open: bool = False
    is_call: bool = False


class GrpcPart(Protocol):
    """A part of a gateway that has methods."""

    def methods(self) -> dict[str, GrpcMethod]:
        """Return its methods by their full names."""
