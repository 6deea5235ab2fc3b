"""Adapters on the Hugging Face Hub, or on a server that speaks like it (``HF_ENDPOINT``)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from aloraserve.adapters.sources.addresses import ForbiddenAddressError, ListsHost, guarded_pool
from aloraserve.adapters.sources.base import (
    FILE_LIMITS,
    SourceChangedError,
    SourceFile,
    SourceInterruptedError,
)
from aloraserve.adapters.sources.http_content import chunks_of, forbidden
from aloraserve.adapters.sources.reference import SourceReference
from aloraserve.errors import AdapterSourceError

DEFAULT_ENDPOINT = "https://huggingface.co"
MAX_REDIRECTS = 5
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REDIRECTS = (301, 302, 303, 307, 308)
_RETRIED = (408, 425, 429, 500, 502, 503, 504)


class HubSource:
    """See :class:`~aloraserve.adapters.sources.base.Source`.

    The first file's answer says which commit the revision is; all files are of that one. The token is the one that
    the hub's own tools find on this machine, and goes to the endpoint alone.

    Args:
        reference: with scheme "hf".
        lists_host: see :func:`~aloraserve.adapters.sources.addresses.guarded_pool`; the endpoint's host is the
            operator's choice and counts as listed.

    Raises:
        AdapterSourceError: this machine is set to be offline.
    """

    def __init__(self, reference: SourceReference, lists_host: ListsHost) -> None:
        from huggingface_hub import constants
        from huggingface_hub.utils._headers import build_hf_headers

        if constants.HF_HUB_OFFLINE:
            raise AdapterSourceError("hf sources are not fetched while HF_HUB_OFFLINE is set")
        self._endpoint = os.environ.get("HF_ENDPOINT", DEFAULT_ENDPOINT).rstrip("/")
        self._repository, self._subfolder = "/".join((reference.host, reference.path[0])), reference.path[1:]
        self._revision = reference.version or "main"
        self._headers = {**build_hf_headers(library_name="aloraserve"), "Accept-Encoding": "identity"}
        own = urlsplit(self._endpoint)
        own_port = own.port or (443 if own.scheme == "https" else 80)
        self._pool = guarded_pool(
            lambda host, port: (
                lists_host(host, port) or ("HF_ENDPOINT" in os.environ and (host, port) == (own.hostname, own_port))
            )
        )

    def files(self) -> Sequence[SourceFile]:
        """See the contract."""
        return [file for name in FILE_LIMITS if (file := self._head(name)) is not None]

    def read(self, file: SourceFile, offset: int) -> Iterator[bytes]:
        """See the contract."""
        if offset == file.size:
            return
        response, headers = self._request("GET", file.name, {"Range": f"bytes={offset}-"} if offset else {})
        with response:
            if response.status in _RETRIED:
                raise SourceInterruptedError(f"status {response.status}")
            if response.status not in (200, 206) or _version(headers) != file.version:
                raise SourceChangedError
            # A server that knows no ranges sends the whole again.
            skipped = offset if response.status == 200 else 0
            yield from chunks_of(response, skipped)

    def close(self) -> None:
        """See the contract."""
        self._pool.clear()

    def _head(self, name: str) -> SourceFile | None:
        response, headers = self._request("HEAD", name)
        response.close()
        if response.status == 404 and headers.get("X-Error-Code", "EntryNotFound") == "EntryNotFound":
            return None
        if response.status in _RETRIED:
            raise SourceInterruptedError(f"status {response.status}")
        if response.status != 200 and response.status not in _REDIRECTS:
            raise AdapterSourceError(f"the hub answers {response.status} for {name} in {self._repository}")
        if _COMMIT.fullmatch(commit := headers.get("X-Repo-Commit", "")):
            self._revision = commit
        size = headers.get("X-Linked-Size") or headers.get("Content-Length") or ""
        if not size.isdecimal() or not _version(headers):
            raise AdapterSourceError(f"the hub does not say the size and version of {name} in {self._repository}")
        version = _version(headers)
        return SourceFile(name, int(size), version, version if _SHA256.fullmatch(version) else None)

    def _request(
        self, method: str, name: str, extra: Mapping[str, str] | None = None
    ) -> tuple[urllib3.BaseHTTPResponse, dict[str, str]]:
        """Return the last answer of the redirects, and the headers of all of them, the first ones first in rank."""
        from huggingface_hub import hf_hub_url

        subfolder = "/".join(self._subfolder) or None
        url = hf_hub_url(self._repository, name, subfolder=subfolder, revision=self._revision, endpoint=self._endpoint)
        headers, found = {**self._headers, **(extra or {})}, dict[str, str]()
        for _ in range(MAX_REDIRECTS + 1):
            response = self._send(method, url, headers)
            found = {**{key.title(): value for key, value in response.headers.items()}, **found}
            # What serves the content may refuse to be asked about it: its address is signed for GET.
            is_known = method == "HEAD" and "X-Linked-Etag" in found
            if response.status not in _REDIRECTS or is_known:
                return response, found
            response.close()
            url, last = urljoin(url, response.headers.get("Location", "")), url
            if urlsplit(url)[:2] != urlsplit(last)[:2]:
                headers = {key: value for key, value in headers.items() if key.lower() != "authorization"}
            found.pop("Content-Length", None)
        raise AdapterSourceError(f"the hub redirects more than {MAX_REDIRECTS} times for {name}")

    def _send(self, method: str, url: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        try:
            return self._pool.request(method, url, headers=headers, redirect=False, preload_content=False)
        except ForbiddenAddressError:
            raise forbidden(urlsplit(url).hostname or "") from None
        except (HTTPError, OSError, ValueError) as error:
            raise SourceInterruptedError(type(error).__name__) from error


def _version(headers: Mapping[str, str]) -> str:
    tag = headers.get("X-Linked-Etag") or headers.get("Etag") or ""
    return tag.removeprefix("W/").strip('"')
