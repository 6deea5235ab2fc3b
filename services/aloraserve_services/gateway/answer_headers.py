"""Headers of every answer that keep browsers and caches from making more of it than it is."""

from __future__ import annotations

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from aloraserve.settings import Settings

Field = tuple[bytes, bytes]
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
PREFLIGHT_MAX_AGE_S = 600
EVENTS = {
    "cache-control": "no-cache",
    # nginx and its like would collect events otherwise.
    "x-accel-buffering": "no",
}
"""Headers of events that are sent as they come."""
_FIXED = (
    (b"x-content-type-options", b"nosniff"),
    # An answer is its caller's; what may be kept says so itself.
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    # Answers are data; a page has a policy of its own.
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)


def fixed_headers(settings: Settings) -> tuple[Field, ...]:
    """Return what every answer has unless its handler chose another value."""
    if not settings.hsts_max_age_s:
        return _FIXED
    return (*_FIXED, (b"strict-transport-security", b"max-age=%d" % settings.hsts_max_age_s))


def with_headers(headers: list[Field], more: tuple[Field, ...]) -> list[Field]:
    """Return headers and those of ``more`` that are not among them; names are in lower case."""
    names = {name for name, _ in headers}
    return [*headers, *(field for field in more if field[0] not in names)]


def for_origins(app: ASGIApp, settings: Settings) -> ASGIApp:
    """Return an application that web pages of the settings' origins may call, with a key that they send themselves."""
    if not settings.cors_origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=settings.cors_origins,
        allow_methods=METHODS,
        allow_headers=["*"],
        expose_headers=["*"],
        allow_credentials=False,
        max_age=PREFLIGHT_MAX_AGE_S,
    )
