"""What wraps every HTTP request: it is counted once, and it has an id."""

from __future__ import annotations

import re
import uuid

import structlog
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aloraserve.wire import reply_for
from aloraserve_services.gateway.metrics import METRICS

log = structlog.get_logger(__name__)

ENDPOINTS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
        "/v1/replicas",
        "/v1/receipts",
        "/healthz",
        "/readyz",
        "/metrics",
    }
)
_PLAIN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class CountedRequests:
    """Counts each request by endpoint and status when its response starts, and answers what nobody else has caught.

    Paths that are not ours share the label "other", so that clients cannot make labels.

    Args:
        app: the application inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        endpoint = _endpoint(scope["path"])
        started = False

        async def counted(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                METRICS.requests.labels(endpoint, str(message["status"])).inc()
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except Exception as error:
            log.error("request_failed", endpoint=endpoint, cause=type(error).__name__, exc_info=error)
            if started:
                raise
            reply = reply_for(error)
            await JSONResponse(reply.body, reply.status, reply.headers)(scope, receive, counted)


def _endpoint(path: str) -> str:
    """Return the label of a path; a receipt's own path counts as all receipts'."""
    if path.startswith("/v1/receipts/"):
        path = "/v1/receipts"
    return path if path in ENDPOINTS else "other"


def current_request_id() -> str:
    """Return the current request's id, which Serve sends back as ``x-request-id``.

    It is the client's own if it sent a plain one in that header, of at most 64 letters, digits, ".", "_" and "-".
    """
    from ray.serve import context

    given = context._get_serve_request_context().request_id
    return given if _PLAIN_ID.fullmatch(given) else uuid.uuid4().hex
