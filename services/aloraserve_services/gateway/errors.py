"""Errors as responses, for all routes."""

from __future__ import annotations

import structlog
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from aloraserve.errors import AloraserveError
from aloraserve.wire import reply_for

log = structlog.get_logger(__name__)


def add_error_handlers(app: FastAPI) -> None:
    """Have an application answer this project's errors, unknown paths and wrong methods in OpenAI's form."""
    app.add_exception_handler(AloraserveError, _failed)
    app.add_exception_handler(HTTPException, _not_found)


async def _failed(request: Request, error: Exception) -> Response:
    reply = reply_for(error)
    if reply.status >= 500:
        log.error("request_failed", path=request.url.path, cause=type(error).__name__, exc_info=error)
    return JSONResponse(reply.body, status_code=reply.status, headers=reply.headers)


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    allowed = (error.headers or {}).get("Allow", "another method")
    message = {
        404: f"there is nothing at {request.url.path[:120]!r}",
        405: f"{request.method} is not allowed at {request.url.path[:120]!r}; allowed is {allowed}",
    }.get(error.status_code, str(error.detail))
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
    return JSONResponse(body, status_code=error.status_code, headers=dict(error.headers or {}))
