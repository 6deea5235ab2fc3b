"""A streaming HTTP client that costs little: its timings should be of the platform, not of itself."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass

from aloraserve_services.cli.client import CallFailedError

TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Streamed:
    """What came of a streamed completion.

    Args:
        request_id: as the platform knows it.
        text: the answer.
        ttft_s: from the request to the first event with content.
        whole_s: to the end of the answer.
        prompt_tokens: of the prompt, the invocation included.
        cached_tokens: of those, not prefilled.
        replica: who answered.
        policy: what decided.
    """

    request_id: str
    text: str
    ttft_s: float
    whole_s: float
    prompt_tokens: int
    cached_tokens: int
    replica: str
    policy: str


class LightClient:
    """Calls ``/v1/completions``, a connection a call, any number at once.

    Args:
        host: of the platform.
        port: of the platform.
        headers: for every call.
    """

    def __init__(self, host: str, port: int, headers: dict[str, str]) -> None:
        self._host = host
        self._port = port
        self._headers = headers

    async def complete(
        self, request_id: str, model: str, token_ids: list[int], max_tokens: int, headers: dict[str, str] | None = None
    ) -> Streamed:
        """Make a greedy, streamed call.

        Raises:
            CallFailedError: the connection broke, or the answer is an error or incomplete.
        """
        body = {"model": model, "prompt": token_ids, "max_tokens": max_tokens, "temperature": 0, "stream": True}
        given = {**self._headers, **(headers or {}), "x-request-id": request_id}
        started = time.perf_counter()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reader, writer = await asyncio.open_connection(self._host, self._port)
                try:
                    writer.write(self._request(json.dumps(body, separators=(",", ":")).encode(), given))
                    return await _answer(reader, request_id, started)
                finally:
                    writer.close()
        except (OSError, EOFError, TimeoutError, ValueError, LookupError) as error:
            raise CallFailedError(f"{request_id} failed: {type(error).__name__}: {error}") from error

    def _request(self, body: bytes, headers: dict[str, str]) -> bytes:
        lines = [
            "POST /v1/completions HTTP/1.1",
            f"host: {self._host}:{self._port}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            "connection: close",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        return "\r\n".join((*lines, "", "")).encode() + body


async def _answer(reader: asyncio.StreamReader, request_id: str, started: float) -> Streamed:
    status, headers = await _head(reader)
    if status != 200:
        raise CallFailedError(f"{request_id} was answered {status}: {(await reader.read(500))!r}")
    texts: list[str] = []
    ttft_s, is_whole = 0.0, False
    # Each event is a chunk of its own, and its data one line; lengths and blank lines stand between.
    async for line in reader:
        if not line.startswith(b"data: "):
            continue
        if line.startswith(b"data: [DONE]"):
            is_whole = True
            break
        ttft_s = ttft_s or time.perf_counter() - started
        event = json.loads(line[6:])
        if "error" in event:
            raise CallFailedError(f"{request_id} was cut short: {event['error']['message']}")
        texts += [choice["text"] for choice in event["choices"]]
    if not is_whole:
        raise CallFailedError(f"{request_id} was cut short: the connection ended")
    return Streamed(
        request_id,
        "".join(texts),
        ttft_s,
        time.perf_counter() - started,
        int(headers["x-aloraserve-prompt-tokens"]),
        int(headers["x-aloraserve-cached-tokens"]),
        headers["x-aloraserve-replica"],
        headers["x-aloraserve-policy"],
    )


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return int(first.split(" ", 2)[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}
