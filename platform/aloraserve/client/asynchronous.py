"""The client of asynchronous programs."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from aloraserve.client import requests
from aloraserve.client.addresses import is_grpc
from aloraserve.client.answers import Answer, Part
from aloraserve.client.blocking import TIMEOUT_S
from aloraserve.client.errors import CallError
from aloraserve.client.requests import CallRequest
from aloraserve.client.retries import Retries


class AsyncCalls(Protocol):
    """Makes one attempt of a call; raises CallError."""

    async def call(self, request: CallRequest) -> dict[str, Any]:
        """Return a whole answer."""

    def stream(self, request: CallRequest) -> AsyncIterator[dict[str, Any]]:
        """Yield the parts of an answer."""

    async def close(self) -> None:
        """Close the connections."""


class AsyncClient:
    """Calls the platform. For one event loop.

    A call that may succeed later is made again; a stream only until its first part. Further fields of a call are those
    of the HTTP API, such as ``max_tokens``.

    Args:
        url: ``http://``, ``https://``, ``grpc://`` or ``grpcs://`` with host and port.
        api_key: None for a platform without keys.
        timeout_s: without a byte of the answer over HTTP, of the whole call over gRPC.
        retries: how often calls are made again.
        ca_file: PEM file of certificates that are trusted, None for the usual ones.

    Raises:
        ValueError: the URL is not accepted.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        retries: Retries | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self._retries = retries or Retries()
        self._calls: AsyncCalls
        if is_grpc(url):
            from aloraserve.client.grpc_calls import AsyncGrpcCalls

            self._calls = AsyncGrpcCalls(url, api_key, timeout_s, ca_file.read_bytes() if ca_file else None)
        else:
            from aloraserve.client.http_calls import AsyncHttpCalls

            how = {"verify": ssl.create_default_context(cafile=str(ca_file))} if ca_file else {}
            self._calls = AsyncHttpCalls(url, api_key, timeout_s, how)

    async def chat(self, model: str, messages: Sequence[Any], **fields: Any) -> Answer:
        """Return the answer to a conversation; raises CallError."""
        return Answer(await self._call(requests.chat_request(model, messages, fields)))

    def stream_chat(self, model: str, messages: Sequence[Any], **fields: Any) -> AsyncIterator[Part]:
        """Yield the answer to a conversation in parts; raises CallError."""
        return self._stream(requests.chat_request(model, messages, fields, is_streamed=True))

    async def complete(self, model: str, prompt: str | list[Any], **fields: Any) -> Answer:
        """Return what follows a text, token ids, or several of these; raises CallError."""
        return Answer(await self._call(requests.completion_request(model, prompt, fields)))

    def stream_complete(self, model: str, prompt: str | list[Any], **fields: Any) -> AsyncIterator[Part]:
        """Yield what follows a text, token ids, or several of these in parts; raises CallError."""
        return self._stream(requests.completion_request(model, prompt, fields, is_streamed=True))

    async def intrinsics(
        self, messages: Sequence[Any], intrinsics: Sequence[Any], **fields: Any
    ) -> list[dict[str, Any]]:
        """Return what each intrinsic finds in a conversation; raises CallError.

        Args:
            messages: of the conversation.
            intrinsics: names, or ``{"name": ..., "fields": {...}}``.
            fields: further ones of the HTTP API.
        """
        found = await self._call(requests.intrinsics_request(messages, intrinsics, fields))
        results: list[dict[str, Any]] = found["results"]
        return results

    async def adapters(self) -> list[dict[str, Any]]:
        """Return the catalog's versions that the key may manage, a page after the other; raises CallError."""
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            page = await self._call(requests.adapters_request(after))
            found += page.get("data", [])
            if not (after := page.get("next", "")):
                return found

    async def close(self) -> None:
        """Close the connections."""
        await self._calls.close()

    async def __aenter__(self) -> AsyncClient:
        """Return this client, which is closed at the end of the context."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close it."""
        await self.close()

    async def _call(self, request: CallRequest) -> dict[str, Any]:
        attempt = 1
        while True:
            try:
                return await self._calls.call(request)
            except CallError as error:
                await self._pause(attempt, error)
            attempt += 1

    async def _stream(self, request: CallRequest) -> AsyncIterator[Part]:
        attempt, has_begun = 1, False
        while True:
            try:
                async for content in self._calls.stream(request):
                    has_begun = True
                    yield Part(content)
                return
            except CallError as error:
                if has_begun:
                    raise
                await self._pause(attempt, error)
            attempt += 1

    async def _pause(self, attempt: int, error: CallError) -> None:
        pause_s = self._retries.pause_s(attempt, error)
        if pause_s is None:
            raise error
        await asyncio.sleep(pause_s)
