"""Calls over gRPC: the same bodies as HTTP's, as messages of ``aloraserve.v1``.

The one module of the platform that imports grpc, and nobody imports it but a client whose URL asks for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import grpc
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from aloraserve.client.errors import NO_CONNECTION, CallError
from aloraserve.client.requests import ADAPTERS, CHAT, COMPLETION, INTRINSICS, CallRequest
from aloraserve.v1 import adapters_pb2, chat_pb2, completion_pb2, intrinsics_pb2
from aloraserve.wire.protobuf import json_of, message_of

DETAILS_KEY = "grpc-status-details-bin"
MAX_ANSWER_BYTES = 64 << 20
_Code = grpc.StatusCode
_STATUSES = {
    _Code.INVALID_ARGUMENT: 400,
    _Code.UNAUTHENTICATED: 401,
    _Code.PERMISSION_DENIED: 403,
    _Code.NOT_FOUND: 404,
    _Code.FAILED_PRECONDITION: 409,
    _Code.RESOURCE_EXHAUSTED: 429,
    _Code.INTERNAL: 500,
    _Code.UNIMPLEMENTED: 501,
    _Code.UNAVAILABLE: 503,
    _Code.DEADLINE_EXCEEDED: 504,
    # By the server: a call that met a gateway in the moment that it began to stop.
    _Code.CANCELLED: 503,
}
_FORMS_ALREADY = (bool, int)


class _Method(NamedTuple):
    """A method and the kinds of its messages."""

    name: str
    request: type[Message]
    answer: type[Message]


_METHODS = {
    (CHAT, False): _Method("Inference/Chat", chat_pb2.ChatRequest, chat_pb2.ChatResponse),
    (CHAT, True): _Method("Inference/ChatStream", chat_pb2.ChatRequest, chat_pb2.ChatStreamResponse),
    (COMPLETION, False): _Method("Inference/Complete", completion_pb2.CompleteRequest, completion_pb2.CompleteResponse),
    (COMPLETION, True): _Method(
        "Inference/CompleteStream", completion_pb2.CompleteRequest, completion_pb2.CompleteStreamResponse
    ),
    (INTRINSICS, False): _Method("Intrinsics/Run", intrinsics_pb2.RunRequest, intrinsics_pb2.RunResponse),
    (ADAPTERS, False): _Method("Adapters/List", adapters_pb2.ListRequest, adapters_pb2.ListResponse),
}


class GrpcCalls:
    """Makes calls, one attempt each, and blocks.

    Args:
        url: ``grpc://host:port``, or ``grpcs://`` with TLS.
        api_key: None without keys.
        timeout_s: of a whole call.
        certificates: PEM of those that are trusted beside TLS' own, None for no others.
    """

    def __init__(self, url: str, api_key: str | None, timeout_s: float, certificates: bytes | None = None) -> None:
        target, credentials = _target(url, certificates)
        self._channel = (
            grpc.insecure_channel(target, _OPTIONS)
            if credentials is None
            else grpc.secure_channel(target, credentials, _OPTIONS)
        )
        self._api_key, self._timeout_s = api_key, timeout_s

    def call(self, request: CallRequest) -> dict[str, Any]:
        """Return a whole answer; raises CallError."""
        method, message = _message(request)
        try:
            return _content(method, self._channel.unary_unary(_full(method))(message, **self._how(request)))
        except grpc.RpcError as error:
            raise _error_of(error) from None

    def stream(self, request: CallRequest) -> Iterator[dict[str, Any]]:
        """Yield the parts of an answer; raises CallError."""
        method, message = _message(request)
        call = self._channel.unary_stream(_full(method))(message, **self._how(request))
        try:
            for raw in call:
                yield _content(method, raw)
        except grpc.RpcError as error:
            raise _error_of(error) from None
        finally:
            call.cancel()

    def close(self) -> None:
        """Close the connections."""
        self._channel.close()

    def _how(self, request: CallRequest) -> dict[str, Any]:
        return _how(request, self._api_key, self._timeout_s)


class AsyncGrpcCalls:
    """Makes calls, one attempt each; see :class:`GrpcCalls`."""

    def __init__(self, url: str, api_key: str | None, timeout_s: float, certificates: bytes | None = None) -> None:
        target, credentials = _target(url, certificates)
        self._channel = (
            grpc.aio.insecure_channel(target, _OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, _OPTIONS)
        )
        self._api_key, self._timeout_s = api_key, timeout_s

    async def call(self, request: CallRequest) -> dict[str, Any]:
        """Return a whole answer; raises CallError."""
        method, message = _message(request)
        try:
            return _content(method, await self._channel.unary_unary(_full(method))(message, **self._how(request)))
        except grpc.RpcError as error:
            raise _error_of(error) from None

    async def stream(self, request: CallRequest) -> AsyncIterator[dict[str, Any]]:
        """Yield the parts of an answer; raises CallError."""
        method, message = _message(request)
        call = self._channel.unary_stream(_full(method))(message, **self._how(request))
        try:
            async for raw in call:
                yield _content(method, raw)
        except grpc.RpcError as error:
            raise _error_of(error) from None
        finally:
            call.cancel()

    async def close(self) -> None:
        """Close the connections."""
        await self._channel.close()

    def _how(self, request: CallRequest) -> dict[str, Any]:
        return _how(request, self._api_key, self._timeout_s)


_OPTIONS = (("grpc.max_receive_message_length", MAX_ANSWER_BYTES),)


def _target(url: str, certificates: bytes | None) -> tuple[str, Any]:
    parts = urlsplit(url)
    credentials = grpc.ssl_channel_credentials(certificates) if parts.scheme == "grpcs" else None
    return parts.netloc, credentials


def _how(request: CallRequest, api_key: str | None, timeout_s: float) -> dict[str, Any]:
    """Return how a request is sent: as whose, under which key, and for how long."""
    own = {"authorization": f"Bearer {api_key}"} if api_key else {}
    return {"metadata": tuple({**own, **request.idempotency_key}.items()), "timeout": timeout_s}


def _full(method: _Method) -> str:
    return f"/aloraserve.v1.{method.name}"


def _message(request: CallRequest) -> tuple[_Method, bytes]:
    """Return the method that takes a request, and its message.

    Raises:
        CallError: a field has a type that it cannot have.
    """
    method = _METHODS[request.path, request.is_streamed]
    body: Mapping[str, Any] = request.query if request.body is None else request.body
    if request.path == COMPLETION:
        body = {**body, "prompt": _prompts(body.get("prompt"))}
    try:
        return method, message_of(method.request, body).SerializeToString()
    except (TypeError, ValueError, AttributeError) as error:
        raise CallError(f"a field has the wrong type: {error}", status=400) from None


def _prompts(prompt: Any) -> Any:
    """Return a list of prompts, each a text or token ids."""
    is_list = isinstance(prompt, list) and not (prompt and isinstance(prompt[0], _FORMS_ALREADY))
    return prompt if is_list else [prompt]


def _content(method: _Method, raw: bytes) -> dict[str, Any]:
    return json_of(method.answer.FromString(raw))


def _error_of(error: Any) -> CallError:
    """Return what a status says."""
    raw = dict(error.trailing_metadata() or ()).get(DETAILS_KEY)
    info, bad, retry = ErrorInfo(), BadRequest(), RetryInfo()
    for detail in Status.FromString(raw).details if raw else ():
        any(detail.Unpack(found) for found in (info, bad, retry) if detail.Is(found.DESCRIPTOR))
    status = _STATUSES.get(error.code(), 500)
    delay_s = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return CallError(
        str(error.details()),
        # Without details nobody of the platform said it.
        status=NO_CONNECTION if raw is None and error.code() is _Code.UNAVAILABLE else status,
        code=info.reason.lower(),
        param=next((violation.field for violation in bad.field_violations), None),
        retry_after_s=delay_s if retry.HasField("retry_delay") else None,
        # The time was the caller's: as much again would pass.
        is_final=error.code() is _Code.DEADLINE_EXCEEDED,
    )
