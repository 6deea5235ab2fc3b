"""The one map from errors to responses, in OpenAI's error body."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from aloraserve.errors import (
    AloraserveError,
    AuthenticationError,
    BodyTimeoutError,
    BodyTooLargeError,
    DirectoryUnavailableError,
    DrainingError,
    InvalidRequestError,
    MediaTypeError,
    NotPermittedError,
    OverloadedError,
    ReplicaLostError,
    UnknownModelError,
    UnknownReceiptError,
)
from aloraserve.wire.chat import PARTS_TAG, STRING_TAG, ChatMessage, ChatRequest
from aloraserve.wire.completions import CompletionRequest

MAX_ECHO_CHARACTERS = 80
MAX_PATH_CHARACTERS = 120
RETRY_AFTER_S = 1

_PROMPT_FIELDS = frozenset({"messages", "prompt"})
_ECHOED_IN_MESSAGES = frozenset({"role", "type"})
_TOP_LEVEL_UNSUPPORTED = ChatRequest.unsupported | CompletionRequest.unsupported


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
    AuthenticationError: _Row(401, "authentication_error", "invalid_api_key", {"WWW-Authenticate": "Bearer"}),
    NotPermittedError: _Row(403, "permission_error", "admin_key_needed"),
    UnknownReceiptError: _Row(404, "invalid_request_error", "receipt_not_found"),
    OverloadedError: _Row(429, "overloaded_error", "overloaded", {"Retry-After": str(RETRY_AFTER_S)}),
    DrainingError: _Row(
        503, "overloaded_error", "draining", {"Retry-After": str(RETRY_AFTER_S), "Connection": "close"}
    ),
    ReplicaLostError: _Row(502, "server_error", "replica_lost"),
    DirectoryUnavailableError: _Row(503, "server_error", "directory_unavailable"),
}


def reply_for(exc: BaseException) -> ErrorReply:
    """Return the response for any exception.

    What is not the client's to know (settings, adapters' files, anything unforeseen) becomes a 500 without
    detail; the caller logs the exception.
    """
    if isinstance(exc, ValidationError):
        exc = invalid_request(exc)
    elif isinstance(exc, json.JSONDecodeError):
        exc = InvalidRequestError(_json_message(exc))
    if isinstance(exc, AloraserveError):
        for known in type(exc).__mro__:
            if known in _MAP:
                return _reply(_MAP[known], exc.message, exc.param)
    return _reply(_INTERNAL, "internal error", None)


def _reply(row: _Row, message: str, param: str | None) -> ErrorReply:
    error = {
        "message": _encodable(message),
        "type": row.kind,
        "param": None if param is None else _encodable(param),
        "code": row.code,
    }
    return ErrorReply(row.status, {"error": error}, dict(row.headers))


def _json_message(exc: json.JSONDecodeError) -> str:
    return f"the body is not valid JSON: {exc.msg} at line {exc.lineno} column {exc.colno} (character {exc.pos})"


def invalid_request(exc: ValidationError) -> InvalidRequestError:
    """Return a validation failure as a message that names the field, its value and what would be accepted."""
    errors = exc.errors(include_url=False, include_context=False)
    first = errors[0]
    path = _path(first["loc"])
    others = f" ({len(errors) - 1} more fields are wrong)" if len(errors) > 1 else ""
    return InvalidRequestError(_sentence(path, first) + others, param=path or None)


def _sentence(path: str, error: ErrorDetails) -> str:
    if not path:
        return error["msg"]
    if error["type"] == "extra_forbidden":
        return f"'{path}' {_why_refused(error['loc'])}"
    if error["type"] == "missing":
        return f"'{path}' is required"
    reason = error["msg"][:1].lower() + error["msg"][1:]
    return f"'{path}'{_echo(error)} {reason.replace('input should be', 'should be')}"


def _why_refused(loc: tuple[int | str, ...]) -> str:
    names = ChatMessage.unsupported if len(loc) > 1 else _TOP_LEVEL_UNSUPPORTED
    return "is not supported by this server" if loc[-1] in names else "is not a known field"


def _echo(error: ErrorDetails) -> str:
    """Return the offending value in brackets; texts of prompts and containers are never shown."""
    loc, value = error["loc"], error["input"]
    in_prompt = loc[0] in _PROMPT_FIELDS and loc[-1] not in _ECHOED_IN_MESSAGES
    if in_prompt or not isinstance(value, str | int | float | bool | None):
        return ""
    return f" ({_abbreviated(value)})"


def _abbreviated(value: object) -> str:
    if isinstance(value, str):
        text = json.dumps(value[:MAX_ECHO_CHARACTERS], ensure_ascii=False)
    elif isinstance(value, int) and value.bit_length() > 256:
        text = "a very large integer"
    else:
        text = json.dumps(value)
    return text if len(text) <= MAX_ECHO_CHARACTERS else text[: MAX_ECHO_CHARACTERS - 3] + "..."


def _path(loc: tuple[int | str, ...]) -> str:
    path = ".".join(str(part) for part in loc if part not in (STRING_TAG, PARTS_TAG))
    return path if len(path) <= MAX_PATH_CHARACTERS else path[: MAX_PATH_CHARACTERS - 3] + "..."


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
