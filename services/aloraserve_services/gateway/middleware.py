"""Middleware around every HTTP request: it is counted once, its id is sent back, and a call has a span."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import structlog
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aloraserve.telemetry.tracing import Tracing
from aloraserve.wire import reply_for
from aloraserve.wire.ignored import IGNORED_HEADER, ignored_header
from aloraserve_services.gateway.answer_headers import Field, with_headers
from aloraserve_services.gateway.metrics import GatewayMetrics
from aloraserve_services.gateway.request_context import begin_request, ignored_names
from aloraserve_services.gateway.routes import Endpoint

log = structlog.get_logger(__name__)

_CLOSING = (b"connection", b"close")
_CONTEXT_HEADERS = (b"traceparent", b"tracestate", b"x-request-id")


class CountedRequests:
    """Counts each request by endpoint and status when its response starts, and answers what nobody else has caught.

    Args:
        app: the application inside.
        endpoint: returns what a path counts as: clients cannot make labels.
        metrics: of the gateway.
        tracing: of this process.
        headers: of every answer, see :func:`~aloraserve_services.gateway.answer_headers.fixed_headers`.
        may_call: whether whoever sends this ``Authorization`` may: nobody else makes spans, or has them sampled.
        is_leaving: whether the gateway is about to stop: clients' next requests are to open another connection.
    """

    def __init__(
        self,
        app: ASGIApp,
        endpoint: Callable[[str], Endpoint],
        metrics: GatewayMetrics,
        tracing: Tracing,
        headers: tuple[Field, ...] = (),
        may_call: Callable[[str | None], bool] = lambda authorization: True,
        is_leaving: Callable[[], bool] = lambda: False,
    ) -> None:
        self._is_leaving = is_leaving
        self._may_call = may_call
        self._app = app
        self._endpoint = endpoint
        self._headers = headers
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        endpoint, is_call = self._endpoint(scope["path"])
        headers = _context_headers(scope)
        if not is_call:
            begun = begin_request(scope, headers, self._tracing)
            await self._answer(endpoint, begun.request_id, scope, receive, send)
            return
        self._metrics.in_progress.inc()
        try:
            with self._span(endpoint, scope, headers):
                begun = begin_request(scope, headers, self._tracing)
                self._tracing.annotate({"aloraserve.request_id": begun.request_id})
                await self._answer(endpoint, begun.request_id, scope, receive, send)
        finally:
            self._metrics.in_progress.dec()

    def _span(self, endpoint: str, scope: Scope, headers: Mapping[str, str]) -> AbstractContextManager[None]:
        if self._tracing.is_on and not self._may_call(Headers(scope=scope).get("authorization")):
            return contextlib.nullcontext()
        return self._tracing.request(endpoint, headers)

    async def _answer(self, endpoint: str, request_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def counted(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                own = ((b"x-request-id", request_id.encode()), *_ignored(scope), *self._headers)
                closing = (_CLOSING,) if self._is_leaving() else ()
                message["headers"] = with_headers(message["headers"], (*own, *closing))
                self._metrics.requests.labels(endpoint, str(message["status"])).inc()
                self._tracing.answered(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except Exception as error:
            log.error("request_failed", endpoint=endpoint, cause=type(error).__name__, exc_info=error)
            if started:
                raise
            reply = reply_for(error)
            await JSONResponse(reply.body, reply.status, reply.headers)(scope, receive, counted)


def _context_headers(scope: Scope) -> dict[str, str]:
    return {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _CONTEXT_HEADERS}


def _ignored(scope: Scope) -> list[tuple[bytes, bytes]]:
    """Return the header that names the fields which were passed over, if there are any."""
    names = ignored_names(scope)
    return [(IGNORED_HEADER.encode(), ignored_header(names).encode())] if names else []
