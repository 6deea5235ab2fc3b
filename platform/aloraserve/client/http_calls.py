"""Calls over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import httpx

from aloraserve.client.errors import CallError, error_of, error_within
from aloraserve.client.events import EventReader
from aloraserve.client.requests import CallRequest

_DONE = b"[DONE]"


class HttpCalls:
    """Makes calls, one attempt each, and blocks.

    Args:
        url: of the platform.
        api_key: None without keys.
        timeout_s: without a byte of the answer.
        how: further arguments of httpx.
    """

    def __init__(self, url: str, api_key: str | None, timeout_s: float, how: Mapping[str, Any]) -> None:
        self._http = httpx.Client(base_url=url, headers=_headers(api_key), timeout=timeout_s, **how)

    def call(self, request: CallRequest) -> dict[str, Any]:
        """Return a whole answer; raises CallError."""
        try:
            return _whole(self._http.send(_request(self._http, request)))
        except httpx.HTTPError as error:
            raise _broken(error) from None

    def stream(self, request: CallRequest) -> Iterator[dict[str, Any]]:
        """Yield the parts of an answer; raises CallError."""
        try:
            with self._http.stream(*_arguments(request)[:2], **_arguments(request)[2]) as response:
                if response.status_code != httpx.codes.OK:
                    response.read()
                    raise _refused(response)
                yield from _Events().read_all(response.iter_bytes())
        except httpx.HTTPError as error:
            raise _broken(error) from None

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


class AsyncHttpCalls:
    """Makes calls, one attempt each; see :class:`HttpCalls`."""

    def __init__(self, url: str, api_key: str | None, timeout_s: float, how: Mapping[str, Any]) -> None:
        self._http = httpx.AsyncClient(base_url=url, headers=_headers(api_key), timeout=timeout_s, **how)

    async def call(self, request: CallRequest) -> dict[str, Any]:
        """Return a whole answer; raises CallError."""
        try:
            return _whole(await self._http.send(_request(self._http, request)))
        except httpx.HTTPError as error:
            raise _broken(error) from None

    async def stream(self, request: CallRequest) -> AsyncIterator[dict[str, Any]]:
        """Yield the parts of an answer; raises CallError."""
        events = _Events()
        try:
            async with self._http.stream(*_arguments(request)[:2], **_arguments(request)[2]) as response:
                if response.status_code != httpx.codes.OK:
                    await response.aread()
                    raise _refused(response)
                async for piece in response.aiter_bytes():
                    for part in events.read(piece):
                        yield part
                events.end()
        except httpx.HTTPError as error:
            raise _broken(error) from None

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


class _Events:
    """Reads the parts of a streamed answer."""

    def __init__(self) -> None:
        self._is_whole = False
        self._events = EventReader()

    def read(self, piece: bytes) -> Iterator[dict[str, Any]]:
        """Yield the parts that are whole with another piece."""
        for data in self._events.read(piece):
            if (part := self._part(data)) is not None:
                yield part

    def read_all(self, pieces: Iterator[bytes]) -> Iterator[dict[str, Any]]:
        """Yield the parts of all pieces."""
        for piece in pieces:
            yield from self.read(piece)
        self.end()

    def end(self) -> None:
        """Raise CallError unless the answer is whole."""
        if not self._is_whole:
            raise CallError("the connection ended within the answer")

    def _part(self, data: bytes) -> dict[str, Any] | None:
        if data.strip() == _DONE:
            self._is_whole = True
            return None
        part: dict[str, Any] = json.loads(data)
        if "error" in part:
            raise error_within(part)
        return part


def _headers(api_key: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {api_key}"} if api_key else {}


def _arguments(request: CallRequest) -> tuple[str, str, dict[str, Any]]:
    if request.body is None:
        return "GET", request.path, {"params": request.query}
    return "POST", request.path, {"json": request.http_body, "headers": request.idempotency_key}


def _request(http: httpx.Client | httpx.AsyncClient, request: CallRequest) -> httpx.Request:
    method, path, more = _arguments(request)
    return http.build_request(method, path, **more)


def _whole(response: httpx.Response) -> dict[str, Any]:
    if not response.is_success:
        raise _refused(response)
    content: dict[str, Any] = response.json()
    return content


def _refused(response: httpx.Response) -> CallError:
    try:
        body = response.json()
    except ValueError:
        body = None
    return error_of(response.status_code, body, {name.lower(): value for name, value in response.headers.items()})


def _broken(error: httpx.HTTPError) -> CallError:
    return CallError(f"the call failed: {type(error).__name__}")
