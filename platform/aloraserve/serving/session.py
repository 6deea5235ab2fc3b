"""The client's own id of a conversation, which some policies keep together."""

from __future__ import annotations

import hashlib

from aloraserve.tenants import Caller

SESSION_HEADER = "x-session-id"
MAX_SESSION_CHARACTERS = 128


def session_of(header: str | None, caller: Caller) -> str | None:
    """Return the session, None without the header. The sessions of two tenants differ, whatever they are called.

    An id that is long or not printable ASCII is as good as another: its digest takes its place.

    Args:
        header: the request's ``x-session-id``.
        caller: whose session it is.
    """
    if not header:
        return None
    if len(header) > MAX_SESSION_CHARACTERS or not (header.isascii() and header.isprintable()):
        header = hashlib.blake2b(header.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{caller.cache_salt or ''}/{header}"
