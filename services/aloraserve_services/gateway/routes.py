"""The HTTP application: from a path and a method to a response, errors included."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple, Protocol

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from aloraserve.errors import AloraserveError, InvalidRequestError
from aloraserve.wire import reply_for

Handler = Callable[[Request], Awaitable[Response]]
PARAMETER = "{}"
"""Stands in a path for one part that a client chooses; its handler finds it with :func:`parameters`."""
NAME = "{name}"
"""Stands at the end of a path for a name that a client chooses, and that may have slashes."""
OTHER = "other"
log = structlog.get_logger(__name__)


def as_json(content: object, status: int = 200) -> Response:
    """Return a response of JSON types."""
    return Response(json.dumps(content), status, media_type="application/json")


class Endpoint(NamedTuple):
    """What the requests of a path count as.

    Args:
        label: the path up to what a client chooses; :data:`OTHER` for a path that is not there.
        is_call: whether a request is a call of a model: it has a span, and counts as in progress.
    """

    label: str
    is_call: bool


class HttpPart(Protocol):
    """A part of a gateway that has routes."""

    def add_to(self, routes: Routes) -> None:
        """Add its routes to an application's."""


class Routes:
    """An ASGI application of paths whose parts are fixed, or a client's to choose.

    Args:
        loopback_only: whether to refuse a ``Host`` that is not this machine's. A web page may have its own name point
            here, and then read what it asks for; where there are no keys, nothing else would stop it.
    """

    def __init__(self, *, loopback_only: Callable[[], bool] = lambda: False) -> None:
        self._handlers: dict[str, dict[str, Handler]] = {}
        self._patterns: dict[str, dict[str, Handler]] = {}
        self._calls: set[str] = set()
        self._loopback_only = loopback_only

    def add(self, method: str, path: str, handler: Handler, *, is_call: bool = False) -> None:
        """Have a handler answer a method at a path.

        Args:
            method: in capitals; ``GET`` brings ``HEAD`` with it.
            path: may have :data:`PARAMETER` for parts, or end with :data:`NAME`.
            handler: answers.
            is_call: see :class:`Endpoint`.
        """
        handlers = (self._patterns if "{" in path else self._handlers).setdefault(path, {})
        handlers[method] = handler
        if method == "GET":
            handlers["HEAD"] = handler
        if is_call:
            self._calls.add(path)

    def listed(self) -> list[tuple[str, str]]:
        """Return every path with its methods, but for the ``HEAD`` that goes with each ``GET``."""
        paths = [*self._handlers.items(), *self._patterns.items()]
        return [(path, method) for path, methods in paths for method in methods if method != "HEAD"]

    def endpoint(self, path: str) -> Endpoint:
        """Return what a request's path counts as; clients make no labels."""
        found = path if path in self._handlers else next((each for each, _ in self._matches(path)), None)
        if found is None:
            return Endpoint(OTHER, is_call=False)
        return Endpoint(found.partition("/{")[0], found in self._calls)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except AloraserveError as error:
            response = _failed(request, error)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        if self._loopback_only():
            check_host(request.headers.get("host"))
        path = request.scope["path"]
        handlers = self._handlers.get(path) or self._matching(request, path)
        if handlers is None:
            return not_found(path)
        handler = handlers.get(request.method)
        if handler is None:
            allowed = ", ".join(handlers)
            message = f"{request.method[:20]} is not allowed at {path[:120]!r}; allowed is {allowed}"
            return _refused(405, message, {"Allow": allowed})
        return await handler(request)

    def _matching(self, request: Request, path: str) -> dict[str, Handler] | None:
        """Return the handlers of the pattern that a path has, and note the parts that the client chose."""
        for pattern, chosen in self._matches(path):
            request.scope["path_parameters"] = chosen
            return self._patterns[pattern]
        return None

    def _matches(self, path: str) -> Iterator[tuple[str, list[str]]]:
        """Yield the patterns that a path has, with what the client chose."""
        parts = path.split("/")
        for pattern in self._patterns:
            fixed = pattern.split("/")
            own = [*parts[: len(fixed) - 1], "/".join(parts[len(fixed) - 1 :])] if fixed[-1] == NAME else parts
            if len(fixed) == len(own) and "" not in parts[1:] and all(map(_fits, fixed, own)):
                yield pattern, [part for each, part in zip(fixed, own, strict=True) if each in (PARAMETER, NAME)]


def not_found(path: str) -> Response:
    """Return the refusal of a path at which there is nothing."""
    return _refused(404, f"there is nothing at {path[:120]!r}")


def parameters(request: Request) -> list[str]:
    """Return the parts of a request's path that the client chose."""
    return list(request.scope["path_parameters"])


def _fits(fixed: str, part: str) -> bool:
    return part != "" if fixed in (PARAMETER, NAME) else part == fixed


def check_host(host: str | None) -> None:
    """Raise InvalidRequestError unless a ``Host`` header names this machine itself."""
    if host is not None and not _is_loopback(host):
        raise InvalidRequestError(
            f"the header 'Host' is {host[:80]!r}; a platform without keys is called as localhost or by a loopback "
            "address"
        )


def _is_loopback(host: str) -> bool:
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _failed(request: Request, error: AloraserveError) -> Response:
    reply = reply_for(error)
    if reply.status >= 500:
        log.error("request_failed", path=request.url.path, cause=type(error).__name__, exc_info=error)
    return JSONResponse(reply.body, reply.status, reply.headers)


def _refused(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
    return JSONResponse(body, status, headers)
