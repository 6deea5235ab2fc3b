"""Facts of an HTTP request that the middleware knows, for its route: its id, when it came, and its trace."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import Scope

from aloraserve.telemetry.logs import bind_request
from aloraserve.telemetry.tracing import Tracing, trace_id

_PLAIN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY = "request_context"
_IGNORED_KEY = "ignored_fields"


@dataclass(frozen=True, slots=True)
class RequestContext:
    """See the module's docstring.

    Args:
        request_id: which is sent back as ``x-request-id``.
        arrived_at: on ``time.perf_counter``'s clock.
        traceparent: of its span, or the client's own where nothing is traced here.
    """

    request_id: str
    arrived_at: float
    traceparent: str | None = None


def begin_request(scope: Scope, headers: Mapping[str, str], tracing: Tracing) -> RequestContext:
    """Keep the context of a request that has just come, and name it in the current task's log records.

    Args:
        scope: the request's, where the context is kept.
        headers: the request's, of which ``traceparent`` and ``x-request-id`` are used.
        tracing: of this process; the current span is the request's, if there is one.
    """
    given = headers.get("traceparent")
    traceparent = tracing.traceparent() or (given if trace_id(given) else None)
    begun = RequestContext(_request_id(headers.get("x-request-id", "")), time.perf_counter(), traceparent)
    scope.setdefault("state", {})[_KEY] = begun
    bind_request(begun.request_id, trace_id(traceparent))
    return begun


def context_of(request: Request) -> RequestContext:
    """Return the context that the middleware kept of a request."""
    found: RequestContext = request.scope["state"][_KEY]
    return found


def note_ignored(request: Request, names: Sequence[str]) -> None:
    """Keep the names of fields in a request's body that were passed over; the response names them."""
    request.scope.setdefault("state", {})[_IGNORED_KEY] = names


def ignored_names(scope: Scope) -> Sequence[str]:
    """Return the names that were kept of a request."""
    names: Sequence[str] = scope["state"].get(_IGNORED_KEY, ())
    return names


def _request_id(given: str) -> str:
    """Return the client's own id if it is a plain one, of at most 64 letters, digits, ".", "_" and "-"."""
    return given if _PLAIN_ID.fullmatch(given) else uuid.uuid4().hex
