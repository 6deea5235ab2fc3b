"""Structured logs: a line a record, with its request and trace; never a prompt, a key or a frame's local variables."""

from __future__ import annotations

import re
import sys
from typing import Any

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import Processor, WrappedLogger

from aloraserve.settings import LogFormat

MAX_FRAMES = 50
_LOGIN = re.compile(r"://[^\s/@\"']+@")
_KEY = re.compile(r"\b(bearer) [^\s\"']+", re.IGNORECASE)


def configure_logs(form: LogFormat = "auto") -> None:
    """Write this process's records to its standard error from now on.

    Args:
        form: "json" is an object a line, "text" is for people; "auto" is text on a terminal and JSON elsewhere.
    """
    is_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            *(_json() if is_json else _text()),
            _without_secrets,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def _json() -> list[Processor]:
    # Local variables of a frame hold prompts and keys.
    errors = ExceptionDictTransformer(show_locals=False, max_frames=MAX_FRAMES)
    return [
        structlog.processors.ExceptionRenderer(errors),
        structlog.processors.EventRenamer("message"),
        structlog.processors.JSONRenderer(),
    ]


def _text() -> list[Processor]:
    return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]


def _without_secrets(logger: WrappedLogger, name: str, line: Any) -> str:
    """Return a rendered record without the logins of URLs and the keys of headers, whoever put them there."""
    return _KEY.sub(r"\1 ***", _LOGIN.sub("://***@", line))


def bind_request(request_id: str, trace_id: str | None) -> None:
    """Name the request and, if there is one, the trace in all records of the current task."""
    structlog.contextvars.bind_contextvars(request_id=request_id, **({"trace_id": trace_id} if trace_id else {}))
