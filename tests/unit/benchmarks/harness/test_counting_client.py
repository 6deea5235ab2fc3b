"""The client that reads next to nothing: events, the first token, connections that are kept, and failures."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from aloraserve.wire.answer_stream import CallFailedError
from benchmarks.harness.counting_client import CHATS, CountedAnswer, CountingClient

ROLE = {"choices": [{"delta": {"role": "assistant", "content": ""}}]}
TOKEN = {"choices": [{"delta": {"content": " word"}}]}
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
GAP_S = 0.05


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(content: object) -> bytes:
    return chunk(b"data: " + json.dumps(content).encode() + b"\n\n")


END = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Server:
    """Answers each request with the next of some answers, each written in parts with a gap between."""

    def __init__(self, *answers: list[bytes]) -> None:
        self.answers = list(answers)
        self.connections = 0
        self._serving: list[asyncio.Task[None] | None] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._serving.append(asyncio.current_task())
        while self.answers:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]))
            for part in self.answers.pop(0):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(GAP_S)
        writer.close()
        await writer.wait_closed()

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[CountingClient]:
        """Yield a client of this server."""
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        async with server:
            client = CountingClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            try:
                yield client
            finally:
                client.close()
                await asyncio.gather(*(task for task in self._serving if task))


async def streamed(*parts: bytes) -> CountedAnswer:
    async with Server(list(parts)).client() as client:
        return await client.call(CHATS, {"stream": True})


async def test_the_first_token_is_the_first_text_that_is_not_empty() -> None:
    answer = await streamed(STREAM_HEAD + event(ROLE), event(TOKEN), event(TOKEN), END)
    assert answer.events == 3
    assert GAP_S <= answer.ttft_s < 2 * GAP_S <= answer.e2e_s


async def test_events_are_counted_wherever_the_parts_end() -> None:
    whole = STREAM_HEAD + event(ROLE) + event(TOKEN) * 3 + END
    answer = await streamed(*(whole[at : at + 70] for at in range(0, len(whole), 70)))
    assert answer.events == 4


async def test_a_connection_serves_one_call_after_the_other() -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    server = Server([whole], [STREAM_HEAD + event(TOKEN) + END], [whole])
    async with server.client() as client:
        assert (await client.call(CHATS, {})).events == 0
        assert (await client.call(CHATS, {"stream": True})).events == 1
        await client.get("/healthz")
    assert server.connections == 1


async def test_an_answer_without_text_has_its_first_token_at_its_end() -> None:
    ended = {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "length"}]}
    answer = await streamed(STREAM_HEAD + event(ROLE) + event(ended) + END)
    assert answer.ttft_s == answer.e2e_s


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([b"HTTP/1.1 429 Busy\r\nContent-Length: 4\r\n\r\nbusy"], "answered 429"),
        ([STREAM_HEAD + event({"error": {"message": "lost"}}) + END], "cut short"),
        ([STREAM_HEAD + event(ROLE) + END], "cut short"),
        ([STREAM_HEAD + event(TOKEN)], "ended within the stream"),
    ],
)
async def test_what_is_not_a_whole_answer_is_a_failure(parts: list[bytes], said: str) -> None:
    with pytest.raises(CallFailedError, match=said):
        await streamed(*parts)
