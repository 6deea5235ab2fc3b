"""Content of HTTP answers, as it comes, and the refusal of where they may not come from."""

from __future__ import annotations

from collections.abc import Iterator

import urllib3
from urllib3.exceptions import HTTPError

from aloraserve.adapters.sources.base import CHUNK_BYTES, SourceInterruptedError
from aloraserve.errors import AdapterSourceError

_SHOWN = 80


def chunks_of(response: urllib3.BaseHTTPResponse, skipped: int = 0) -> Iterator[bytes]:
    """Yield an answer's content without its first ``skipped`` bytes, each chunk as soon as some of it is there.

    A server that sends a byte at a time is noticed by whoever counts the time between chunks.

    Raises:
        SourceInterruptedError: the connection ended, or nothing came in time.
    """
    try:
        while chunk := response.read1(CHUNK_BYTES, decode_content=False):
            dropped = min(skipped, len(chunk))
            skipped -= dropped
            if len(chunk) > dropped:
                yield chunk[dropped:]
    except (HTTPError, OSError) as error:
        raise SourceInterruptedError(type(error).__name__) from error


def forbidden(host: str) -> AdapterSourceError:
    """Return the error of a host that may not be connected to."""
    return AdapterSourceError(
        f"the source leads to {host[:_SHOWN]!r}, which has a private address or no TLS; "
        f"adapter_sources lists the hosts that may, e.g. https://{host[:_SHOWN]}"
    )
