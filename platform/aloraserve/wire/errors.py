"""The one map from errors to responses, in OpenAI's error body."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aloraserve.errors import (
    AdapterConflictError,
    AdapterNotLoadedError,
    AdapterNotStoredError,
    AdapterSourceError,
    AloraserveError,
    AuthenticationError,
    BodyTimeoutError,
    BodyTooLargeError,
    ConflictError,
    DeadlineError,
    DirectoryUnavailableError,
    DrainingError,
    EngineEndingRequestError,
    IdempotencyConflictError,
    IdempotencyKeyReusedError,
    InvalidRequestError,
    InvocationError,
    LimitTooLowError,
    MediaTypeError,
    NotPermittedError,
    OverloadedError,
    RateLimitedError,
    ReplicaLostError,
    RetiredAdapterError,
    UnknownAdapterError,
    UnknownKeyError,
    UnknownModelError,
    UnknownPrefixError,
    UnknownReceiptError,
    UnknownServiceError,
    UnknownTenantError,
    UnusableAnswerError,
)

RETRY_AFTER_S = 1


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An HTTP answer to a failed request.

    Args:
        status: HTTP status code.
        body: OpenAI's error body, JSON types only.
        headers: extra response headers.
    """

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Row:
    status: int
    kind: str
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


_INTERNAL = _Row(500, "internal_error", "internal_error")
_MAP: dict[type[AloraserveError], _Row] = {
    InvalidRequestError: _Row(400, "invalid_request_error"),
    BodyTimeoutError: _Row(408, "invalid_request_error", "body_timeout", {"Connection": "close"}),
    BodyTooLargeError: _Row(413, "invalid_request_error", "body_too_large"),
    MediaTypeError: _Row(415, "invalid_request_error", "json_needed"),
    UnknownModelError: _Row(404, "invalid_request_error", "model_not_found"),
    RetiredAdapterError: _Row(404, "invalid_request_error", "model_retired"),
    UnknownAdapterError: _Row(404, "invalid_request_error", "adapter_not_found"),
    ConflictError: _Row(409, "invalid_request_error", "conflict"),
    UnknownTenantError: _Row(404, "invalid_request_error", "tenant_not_found"),
    UnknownPrefixError: _Row(404, "invalid_request_error", "prefix_not_found"),
    UnknownKeyError: _Row(404, "invalid_request_error", "key_not_found"),
    AdapterConflictError: _Row(409, "invalid_request_error", "adapter_conflict"),
    AdapterSourceError: _Row(400, "invalid_request_error", "adapter_source"),
    AuthenticationError: _Row(401, "authentication_error", "invalid_api_key", {"WWW-Authenticate": "Bearer"}),
    NotPermittedError: _Row(403, "permission_error", "role_needed"),
    UnknownServiceError: _Row(404, "invalid_request_error", "service_not_found"),
    UnknownReceiptError: _Row(404, "invalid_request_error", "receipt_not_found"),
    LimitTooLowError: _Row(400, "invalid_request_error", "limit_too_low"),
    RateLimitedError: _Row(429, "rate_limit_error", "rate_limit_exceeded"),
    OverloadedError: _Row(429, "overloaded_error", "overloaded", {"Retry-After": str(RETRY_AFTER_S)}),
    DrainingError: _Row(
        503, "overloaded_error", "draining", {"Retry-After": str(RETRY_AFTER_S), "Connection": "close"}
    ),
    # OpenAI's clients send again what failed with a 5xx, unless they are told not to.
    DeadlineError: _Row(504, "server_error", "deadline_exceeded", {"x-should-retry": "false"}),
    UnusableAnswerError: _Row(502, "server_error", "unusable_answer"),
    InvocationError: _Row(422, "invalid_request_error", "invocation_not_found"),
    IdempotencyConflictError: _Row(
        409, "invalid_request_error", "idempotency_in_progress", {"Retry-After": str(RETRY_AFTER_S)}
    ),
    IdempotencyKeyReusedError: _Row(422, "invalid_request_error", "idempotency_key_reused"),
    EngineEndingRequestError: _Row(422, "invalid_request_error", "engines_ended"),
    ReplicaLostError: _Row(502, "server_error", "replica_lost"),
    AdapterNotLoadedError: _Row(503, "server_error", "adapter_not_loaded", {"x-should-retry": "false"}),
    AdapterNotStoredError: _Row(507, "server_error", "adapter_not_stored", {"x-should-retry": "false"}),
    DirectoryUnavailableError: _Row(503, "server_error", "directory_unavailable"),
}


def reply_for(exc: BaseException) -> ErrorReply:
    """Return the response for any exception.

    What is not the client's to know (settings, adapters' files, anything unforeseen) becomes a 500 without
    detail; the caller logs the exception.
    """
    if isinstance(exc, AloraserveError):
        for known in type(exc).__mro__:
            if known in _MAP:
                return _reply(_MAP[known], exc.message, exc.param, _headers(exc))
    return _reply(_INTERNAL, "internal error", None)


def _headers(error: AloraserveError) -> dict[str, str]:
    if error.retry_after_s is None:
        return dict(error.headers)
    # Whole seconds, and never too early.
    return {"Retry-After": str(max(math.ceil(error.retry_after_s), RETRY_AFTER_S)), **error.headers}


def _reply(row: _Row, message: str, param: str | None, headers: Mapping[str, str] | None = None) -> ErrorReply:
    error = {
        "message": _encodable(message),
        "type": row.kind,
        "param": None if param is None else _encodable(param),
        "code": row.code,
    }
    return ErrorReply(row.status, {"error": error}, {**row.headers, **(headers or {})})


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
