"""Replies of a server that are errors, as exceptions."""

from __future__ import annotations

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)


class WrongPasswordError(AuthenticationError):
    """Raised when a login is refused. A connection stays logged in as it was."""


_ERRORS: dict[str, type[RedisError]] = {
    "ASK": AskError,
    "CLUSTERDOWN": ClusterDownError,
    "LOADING": BusyLoadingError,
    "MASTERDOWN": MasterDownError,
    "MOVED": MovedError,
    "NOAUTH": AuthenticationError,
    "NOPERM": NoPermissionError,
    "NOSCRIPT": NoScriptError,
    "OOM": OutOfMemoryError,
    "READONLY": ReadOnlyError,
    "TRYAGAIN": TryAgainError,
    "WRONGPASS": WrongPasswordError,
}
_UNFIT = (BusyLoadingError, MasterDownError, AuthenticationError, ReadOnlyError)


def error_of(message: str) -> RedisError:
    """Return the exception that stands for an error reply."""
    code, _, rest = message.partition(" ")
    named = _ERRORS.get(code)
    return named(rest) if named else ResponseError(message)


def is_unfit(reply: object) -> bool:
    """Whether a reply says that its server does not serve now, so that another connection has to be opened."""
    return isinstance(reply, _UNFIT) and not isinstance(reply, WrongPasswordError)
