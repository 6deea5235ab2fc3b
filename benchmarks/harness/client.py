"""A streaming client for many calls at once that costs little: its times should be the platform's, not its own."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import urlsplit

from aloraserve.wire.answer_stream import AnswerStream, CallFailedError, StreamedAnswer

TIMEOUT_S = 300.0
PATH = "/v1/completions"


class AsyncStreamingClient:
    """Calls ``/v1/completions``, a connection per call, any number at once.

    Args:
        url: of the platform, ``http://host:port``.
        headers: for every call.
        with_usage: ask for each answer's usage; without it token counts are those of the platform's headers.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str] = MappingProxyType({}), *, with_usage: bool = False
    ) -> None:
        address = urlsplit(url)
        self._host = address.hostname or ""
        self._port = address.port or 80
        self._headers = dict(headers)
        self._options = {"stream_options": {"include_usage": True}} if with_usage else {}

    async def complete(
        self,
        request_id: str,
        model: str,
        prompt: str | list[int],
        max_tokens: int,
        headers: dict[str, str] | None = None,
    ) -> StreamedAnswer:
        """Make a greedy, streamed call with a text or token ids.

        Raises:
            CallFailedError: the connection broke, or the answer is an error or incomplete.
        """
        body = {"model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "stream": True}
        given = {**self._headers, **(headers or {}), "x-request-id": request_id}
        stream = AnswerStream(time.perf_counter())
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reader, writer = await asyncio.open_connection(self._host, self._port)
                try:
                    writer.write(self._request(json.dumps(body | self._options, separators=(",", ":")).encode(), given))
                    return await _read(reader, stream)
                finally:
                    writer.close()
        except (OSError, EOFError, TimeoutError, ValueError, LookupError) as error:
            raise CallFailedError(f"{request_id} failed: {type(error).__name__}: {error}") from error
        except CallFailedError as error:
            raise CallFailedError(f"{request_id} was {error.message}") from None

    def _request(self, body: bytes, headers: dict[str, str]) -> bytes:
        lines = [
            f"POST {PATH} HTTP/1.1",
            f"host: {self._host}:{self._port}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            "connection: close",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        return "\r\n".join((*lines, "", "")).encode() + body


async def _read(reader: asyncio.StreamReader, stream: AnswerStream) -> StreamedAnswer:
    status, headers = await _head(reader)
    if status != 200:
        raise CallFailedError(f"answered {status}: {(await reader.read(500))!r}")
    # Each event is a chunk of its own, and its data one line; lengths and blank lines stand between.
    async for line in reader:
        stream.read(line)
        if stream.is_whole:
            break
    return stream.answer(headers)


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return int(first.split(" ", 2)[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}
