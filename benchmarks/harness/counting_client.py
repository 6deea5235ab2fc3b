"""A client that reads next to nothing: its times and its CPU time should be the server's, not its own.

It keeps its connection, as clients do, counts a stream's events without parsing them, and finds the first token by what
its event must have in it: a text that is not empty.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from aloraserve.wire.answer_stream import CallFailedError

TIMEOUT_S = 120.0
COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"
_EVENT, _DONE, _LAST_CHUNK, _ERROR = b"data: ", b"data: [DONE]", b"0\r\n\r\n", b'"error":'
_TOKEN = re.compile(rb'"(?:content|text)": ?"[^"]')
_FINISHED = re.compile(rb'"finish_reason": ?"')
_HEAD_END = b"\r\n\r\n"
_END_BYTES = 64


@dataclass(frozen=True, slots=True)
class CountedAnswer:
    """What came of one call.

    Args:
        ttft_s: from sending the request to the bytes of the first token; to the last byte of an answer without text.
        e2e_s: to the last byte.
        events: of a stream, its end not counted; 0 of a whole answer.
    """

    ttft_s: float
    e2e_s: float
    events: int


class CountingClient:
    """One connection, one call at a time.

    Args:
        url: of the server, ``http://host:port``.
        headers: for every call.
    """

    def __init__(self, url: str, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname or "", address.port or 80
        self._headers = {"host": f"{self._host}:{self._port}", "content-type": "application/json", **headers}
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def call(self, path: str, body: Mapping[str, Any]) -> CountedAnswer:
        """Make a call; ``body`` says whether it is streamed.

        Raises:
            CallFailedError: the connection broke, or the answer is an error or incomplete.
        """
        raw = json.dumps(body, separators=(",", ":")).encode()
        return await self.post(path, raw, is_streamed=bool(body.get("stream")))

    async def post(self, path: str, raw: bytes, *, is_streamed: bool = False) -> CountedAnswer:
        """Send a body; raises like :meth:`call`."""
        return await self._exchange(self._request("POST", path, raw), is_streamed=is_streamed)

    async def get(self, path: str) -> CountedAnswer:
        """Fetch a path; raises like :meth:`call`."""
        return await self._exchange(self._request("GET", path, b""), is_streamed=False)

    def close(self) -> None:
        """Close the connection; the next call opens another one."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    def _request(self, method: str, path: str, body: bytes) -> bytes:
        headers = {**self._headers, "content-length": str(len(body))}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        return "\r\n".join(lines).encode() + body

    async def _exchange(self, request: bytes, *, is_streamed: bool) -> CountedAnswer:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reader, writer = await self._connection()
                started = time.perf_counter()
                writer.write(request)
                head = (await reader.readuntil(_HEAD_END)).lower()
                if not head.startswith(b"http/1.1 200"):
                    raise CallFailedError(f"answered {head[9:12].decode()}: {(await reader.read(400))!r}")
                if is_streamed:
                    return await _stream(reader, started)
                return await self._whole(reader, head, started)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self.close()
            raise CallFailedError(f"the call failed: {type(error).__name__}: {error}") from error
        except BaseException:
            self.close()
            raise

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._reader is None or self._writer is None or self._reader.at_eof():
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self._reader, self._writer

    async def _whole(self, reader: asyncio.StreamReader, head: bytes, started: float) -> CountedAnswer:
        _, found, rest = head.partition(b"content-length:")
        if found:
            await reader.readexactly(int(rest.split(b"\r\n", 1)[0]))
        else:
            await reader.readuntil(_LAST_CHUNK)
        took_s = time.perf_counter() - started
        return CountedAnswer(took_s, took_s, 0)


async def _stream(reader: asyncio.StreamReader, started: float) -> CountedAnswer:
    """Read a stream to its end, chunked; its last chunk comes after its last event."""
    received, first_s = bytearray(), 0.0
    while not (received.endswith(_LAST_CHUNK) and _DONE in received[-_END_BYTES:]):
        part = await reader.read(1 << 16)
        if not part:
            raise EOFError("the connection ended within the stream")
        received += part
        if not first_s and _TOKEN.search(received):
            first_s = time.perf_counter() - started
    ended_s = time.perf_counter() - started
    if _ERROR in received or not (first_s or _FINISHED.search(received)):
        raise CallFailedError(f"cut short: {bytes(received[-300:])!r}")
    return CountedAnswer(first_s or ended_s, ended_s, received.count(_EVENT) - 1)
