"""The client for many calls at once: what it sends, what it reads and times, and what it takes for a failure."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from aloraserve.wire.answer_stream import CallFailedError, StreamedAnswer
from benchmarks.harness.client import AsyncStreamingClient

HEAD = (
    b"HTTP/1.1 200 OK\r\nX-Aloraserve-Prompt-Tokens: 30\r\nx-aloraserve-cached-tokens: 16\r\n"
    b"x-aloraserve-replica: engine-1\r\nx-aloraserve-policy: expected-ttft\r\ntransfer-encoding: chunked\r\n\r\n"
)
Served = Callable[[asyncio.StreamWriter], Awaitable[None]]


def event(text: str) -> bytes:
    data = b"data: " + json.dumps({"choices": [{"text": text}]}).encode() + b"\n\n"
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def called(serve: Served) -> tuple[StreamedAnswer, bytes]:
    """Make a call to a server that answers so; return also the request."""
    requests: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        requests.append(head + await reader.readexactly(length))
        await serve(writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        client = AsyncStreamingClient(f"http://127.0.0.1:{port}", {"authorization": "Bearer key"})
        return await client.complete("a-1", "model", [1, 2], 3, {"x-session-id": "s"}), requests[0]


async def test_a_streamed_answer_is_read_and_timed_from_its_first_event() -> None:
    gap_s = 0.05

    async def serve(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        await writer.drain()
        await asyncio.sleep(gap_s)
        writer.write(event(" one"))
        await writer.drain()
        await asyncio.sleep(gap_s)
        writer.write(event(" two") + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    answer, request = await called(serve)
    assert (answer.text, answer.prompt_tokens, answer.cached_tokens) == (" one two", 30, 16)
    assert (answer.replica, answer.policy) == ("engine-1", "expected-ttft")
    assert gap_s <= answer.ttft_s <= answer.e2e_s - gap_s * 0.9
    head, _, body = request.partition(b"\r\n\r\n")
    assert {b"x-request-id: a-1", b"x-session-id: s", b"authorization: Bearer key"} <= set(head.split(b"\r\n"))
    assert json.loads(body) == {"model": "model", "prompt": [1, 2], "max_tokens": 3, "temperature": 0, "stream": True}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 429 Too Many\r\n\r\nfull", "answered 429"),
        (HEAD + event(" one"), "cut short: the connection ended"),
        (HEAD + b'10\r\ndata: {"error": {"message": "lost"}}\n\n', "cut short: lost"),
        (HEAD + b"data: no json\n\n", "failed"),
        (b"", "failed"),
    ],
)
async def test_an_answer_that_is_not_whole_is_a_failure(answer: bytes, message: str) -> None:
    async def serve(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    with pytest.raises(CallFailedError, match=message):
        await called(serve)
