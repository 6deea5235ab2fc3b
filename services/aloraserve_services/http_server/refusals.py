"""What the server itself answers, before any application has a say."""

from __future__ import annotations

import json
from collections.abc import Iterable
from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

PROBES = frozenset({"/healthz", "/readyz", "/-/healthz"})
"""Answered on a connection too many: an overloaded process is not a dead one."""
Field = tuple[bytes, bytes]


def raw_refusal(status: HTTPStatus, message: str, fields: Iterable[Field] = ()) -> bytes:
    """Return a whole response, for what never became a request.

    Args:
        status: of the response.
        message: for its body, which is OpenAI's error.
        fields: more headers.
    """
    body = _error_body(status, message)
    lines = b"".join(b"%s: %s\r\n" % field for field in (*fields, *_fields(body)))
    return b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (status, status.phrase.encode(), lines, body)


def refusing(status: HTTPStatus, message: str, *fields: Field) -> ASGIApp:
    """Return an application that answers every request so, and closes the connection; see :func:`raw_refusal`."""
    body = _error_body(status, message)

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": int(status), "headers": [*_fields(body), *fields]})
        await send({"type": "http.response.body", "body": body})

    return refuse


def only_probes(app: ASGIApp) -> ASGIApp:
    """Return an application that has probes answered, and refuses the rest."""
    message = "the server has as many connections as it takes; retry later"
    refuse = refusing(HTTPStatus.SERVICE_UNAVAILABLE, message, (b"retry-after", b"1"))

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        await (app if scope["path"] in PROBES else refuse)(scope, receive, send)

    return serve


def _error_body(status: HTTPStatus, message: str) -> bytes:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": None}}).encode()


def _fields(body: bytes) -> list[Field]:
    return [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
