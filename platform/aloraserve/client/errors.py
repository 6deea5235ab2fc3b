"""The one error of a call, the same over both transports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RETRIED = frozenset({408, 429, 502, 503, 504})
_OF_TYPES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "rate_limit_error": 429,
    "overloaded_error": 503,
}
"""Statuses of errors that come within a stream, whose status was sent before."""
_RETRIED_CODES = frozenset({"idempotency_in_progress"})
"""Another gateway is still answering what was sent before, under the same key."""
_FINAL_CODES = frozenset({"deadline_exceeded", "engines_ended"})
NO_CONNECTION = 0
"""Stands for the status of a call that reached nobody, or whose connection broke."""


class CallError(Exception):
    """Raised when a call is not answered, or not to its end.

    Args:
        message: the platform's, or what happened to the connection.
        status: HTTP's status, or the one that gRPC's stands for; 0 if there was no answer.
        code: such as "model_not_found"; empty if the platform gave none.
        param: the field at fault, None if it is none.
        retry_after_s: when to try again; None if the platform did not say.
        is_final: whether the platform said that no retry helps.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = NO_CONNECTION,
        code: str = "",
        param: str | None = None,
        retry_after_s: float | None = None,
        is_final: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.is_final = is_final

    @property
    def is_retried(self) -> bool:
        """Whether the same call may succeed later."""
        may_pass = self.status == NO_CONNECTION or self.status in RETRIED or self.code in _RETRIED_CODES
        return not self.is_final and may_pass


def error_of(status: int, body: object, headers: Mapping[str, str]) -> CallError:
    """Return the error that an HTTP answer says.

    Args:
        status: of the answer.
        body: of it, as JSON types; None if it is not JSON.
        headers: of it, by lower-case name.
    """
    error: Any = body.get("error") if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {}
    return CallError(
        str(error.get("message") or f"the server answered {status}"),
        status=status,
        code=str(error.get("code") or ""),
        param=error.get("param"),
        retry_after_s=_seconds(headers.get("retry-after")),
        is_final=headers.get("x-should-retry") == "false",
    )


def error_within(event: Mapping[str, Any]) -> CallError:
    """Return the error that an event of a stream says."""
    error = event["error"] if isinstance(event["error"], dict) else {}
    found = error_of(_OF_TYPES.get(str(error.get("type")), 502), event, {})
    found.is_final = found.code in _FINAL_CODES
    return found


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else max(0.0, float(text))
    except ValueError:
        # A date, which this platform does not send.
        return None
