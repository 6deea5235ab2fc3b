"""Errors as gRPC statuses with details, from the one map of errors in :mod:`aloraserve.wire.errors`."""

from __future__ import annotations

from typing import NamedTuple

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from aloraserve.wire.errors import ErrorReply

DOMAIN = "aloraserve"
DETAILS_KEY = "grpc-status-details-bin"
MAX_MESSAGE_CHARACTERS = 1500
"""A status travels in trailers, of which clients take 8 KiB."""
RETRY, NO_RETRY = "Retry-After", "x-should-retry"

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.FAILED_PRECONDITION,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
    507: grpc.StatusCode.FAILED_PRECONDITION,
}


class CallStatus(NamedTuple):
    """The status of a failed call.

    Args:
        code: of it.
        message: for people.
        details: a ``google.rpc.Status``, serialized.
    """

    code: grpc.StatusCode
    message: str
    details: bytes


def status_of(reply: ErrorReply) -> CallStatus:
    """Return what HTTP answers to an error as a status; one that no retry helps is never UNAVAILABLE."""
    error = reply.body["error"]
    code = _CODES.get(reply.status, grpc.StatusCode.INTERNAL)
    if code is grpc.StatusCode.UNAVAILABLE and reply.headers.get(NO_RETRY) == "false":
        code = grpc.StatusCode.FAILED_PRECONDITION
    message = str(error["message"])[:MAX_MESSAGE_CHARACTERS]
    status = Status(code=code.value[0], message=message)
    _pack(status, _info(error))
    if error["param"] is not None and reply.status < 500:
        violation = BadRequest.FieldViolation(field=error["param"], description=message)
        _pack(status, BadRequest(field_violations=[violation]))
    if (after := reply.headers.get(RETRY)) is not None:
        _pack(status, RetryInfo(retry_delay=Duration(seconds=int(after))))
    return CallStatus(code, message, status.SerializeToString())


def _info(error: dict[str, str | None]) -> ErrorInfo:
    metadata = {name: value for name in ("type", "param") if (value := error[name]) is not None}
    return ErrorInfo(reason=str(error["code"] or error["type"]).upper(), domain=DOMAIN, metadata=metadata)


def _pack(status: Status, detail: Message) -> None:
    status.details.add().Pack(detail)
