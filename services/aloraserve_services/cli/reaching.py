"""How a command reaches a platform: the one of a state folder, or one elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx

from aloraserve.errors import StartError
from aloraserve_services.http_server.tls import own_context
from aloraserve_services.local import run_file

TIMEOUT_S = 10


def reaching(
    state_dir: Path, url: str | None, headers: Mapping[str, str]
) -> contextlib.AbstractContextManager[httpx.Client]:
    """Return a client of a platform's HTTP API; see :func:`client_of`.

    Args:
        state_dir: of the platform that is meant without ``url``.
        url: of a platform elsewhere.
        headers: for every call, with the key if there is one.

    Raises:
        StartError: no platform runs there.
    """
    if url is not None:
        return client_of(url, headers, is_elsewhere=True)
    running = run_file.running_in(state_dir)
    return client_of(running.url, headers, certificate=running.certificate)


@contextlib.contextmanager
def client_of(
    url: str, headers: Mapping[str, str], *, certificate: str = "", is_elsewhere: bool = False
) -> Iterator[httpx.Client]:
    """Yield a client that turns a failure to reach its platform into a clear error.

    Args:
        url: of the platform.
        headers: for every call.
        certificate: file of the only one that is trusted; empty for those that this machine trusts.
        is_elsewhere: the environment's proxy may be needed to reach it; never for this machine's own platform.

    Raises:
        StartError: nothing answers.
    """
    address = url.rstrip("/")
    verify = own_context(Path(certificate)) if certificate else True
    try:
        with httpx.Client(
            base_url=address, headers=dict(headers), timeout=TIMEOUT_S, trust_env=is_elsewhere, verify=verify
        ) as client:
            yield client
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        message = f"nothing answers at {address} ({type(error).__name__}): start it with `aloraserve up`"
        raise StartError(message) from None
