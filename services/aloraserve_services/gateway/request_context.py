"""The HTTP request that the current task answers: its id, when it came, and the trace it belongs to."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass

from aloraserve.telemetry.logs import bind_request
from aloraserve.telemetry.tracing import TRACING, trace_id

_PLAIN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class CurrentRequest:
    """See the module's docstring.

    Args:
        request_id: which Serve sends back as ``x-request-id``.
        started_at: on ``time.perf_counter``'s clock.
        traceparent: of its span, or the client's own where nothing is traced here.
    """

    request_id: str
    started_at: float
    traceparent: str | None = None


_CURRENT: ContextVar[CurrentRequest] = ContextVar("aloraserve_request")


def begin_request(headers: Mapping[str, str]) -> None:
    """Make the current task one that answers a new request, and name it in the task's log records.

    Args:
        headers: the request's, of which ``traceparent`` is used.
    """
    given = headers.get("traceparent")
    traceparent = TRACING.traceparent() or (given if trace_id(given) else None)
    one = CurrentRequest(_request_id(), time.perf_counter(), traceparent)
    _CURRENT.set(one)
    bind_request(one.request_id, trace_id(traceparent))


def current_request() -> CurrentRequest:
    """Return the request that the current task answers, a new one if it answers none."""
    found = _CURRENT.get(None)
    return found or CurrentRequest(_request_id(), time.perf_counter())


def _request_id() -> str:
    """Return the client's own id if it sent a plain one, of at most 64 letters, digits, ".", "_" and "-"."""
    from ray.serve import context

    given = context._get_serve_request_context().request_id
    return given if _PLAIN_ID.fullmatch(given) else uuid.uuid4().hex
