"""The client's own id of a conversation, which some policies keep together."""

from __future__ import annotations

from aloraserve.errors import InvalidRequestError

SESSION_HEADER = "x-session-id"
MAX_SESSION_CHARACTERS = 128


def session_of(header: str | None, cache_salt: str | None) -> str | None:
    """Return the session, None without the header. Two tenants' sessions differ, whatever they are called.

    Args:
        header: the request's ``x-session-id``.
        cache_salt: the tenant's.

    Raises:
        InvalidRequestError: the header is too long, or not printable ASCII.
    """
    if not header:
        return None
    if len(header) > MAX_SESSION_CHARACTERS or not (header.isascii() and header.isprintable()):
        raise InvalidRequestError(
            f"the header {SESSION_HEADER} is {header[:40]!a}; up to {MAX_SESSION_CHARACTERS} printable ASCII "
            "characters are accepted",
            param=SESSION_HEADER,
        )
    return f"{cache_salt or ''}/{header}"
