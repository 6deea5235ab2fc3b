"""From a URL to what makes the calls."""

from __future__ import annotations

from urllib.parse import urlsplit

HTTP, GRPC = ("http", "https"), ("grpc", "grpcs")


def is_grpc(url: str) -> bool:
    """Whether a URL asks for gRPC.

    Raises:
        ValueError: it is not one that is accepted.
    """
    parts = urlsplit(url)
    if parts.scheme not in HTTP + GRPC or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise ValueError(f"url is {url[:80]!r}; http, https, grpc or grpcs, a host and a port are needed")
    return parts.scheme in GRPC
