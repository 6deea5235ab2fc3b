"""Streams that are silent for long: proxies on the way see headers and comments, and clients see the answer alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
from support.fake_engines import Engines
from support.fake_pool import ScriptedReplies
from support.http_server import Served, post, serving

from aloraserve.serving.engine_messages import EngineChunk
from aloraserve.wire.answer_stream import AnswerStream
from aloraserve_services.gateway.stream_comments import COMMENT

COMMENT_S = 0.05
BODY = {"model": "base", "prompt": "hello", "stream": True}
RAW = json.dumps(BODY).encode()
ASKED = {"model": "base", "input": "x", "stream": True, "temperature": 0.5}
RESPONSE = post("/v1/responses", json.dumps(ASKED).encode(), "connection: close")
"""A request for a response, whose errors have a form of their own."""
FIRST, LAST = EngineChunk(0, "x", 1, cached_tokens=8), EngineChunk(0, "y", 1, "stop")

pytestmark = pytest.mark.timeout(60)


class GatedReplies(ScriptedReplies):
    """Replies of which some wait until the test lets them come."""

    def __init__(self, *replies: Any, held: int) -> None:
        super().__init__(replies)
        self._held = held
        self.gate, self.reached = asyncio.Event(), asyncio.Event()

    async def __anext__(self) -> Any:
        if not self._held:
            self.reached.set()
            await self.gate.wait()
        self._held -= 1
        return await super().__anext__()


@pytest.fixture
def stream(open_gateway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Serve a gateway whose engine gives these replies."""

    @asynccontextmanager
    async def served(replies: ScriptedReplies, comment_s: float = COMMENT_S) -> AsyncIterator[Served]:
        monkeypatch.setattr(Engines, "dispatch", lambda *_: replies)
        async with serving(open_gateway(sse_comment_s=comment_s).http_app()) as server, asyncio.timeout(30):
            yield server

    return served


def parts_of(received: bytes) -> list[bytes]:
    """Return the parts of a stream, without the head and the chunks' lengths."""
    body = received.partition(b"\r\n\r\n")[2]
    return [part for part in body.split(b"\r\n") if part.startswith((b"data: ", b":"))]


def events_of(received: bytes) -> bytes:
    """Return the rest of a stream without comments and the chunks' lengths."""
    parts = received.replace(COMMENT, b"").split(b"\r\n")
    return b"".join(part for part in parts if part.startswith((b"event: ", b"data: ")))


async def test_headers_and_comments_do_not_wait_for_the_first_token(stream: Callable[..., Any]) -> None:
    replies = GatedReplies(FIRST, LAST, held=0)
    async with stream(replies) as server:
        reader, writer = await server.connect()
        writer.write(post("/v1/completions", RAW, "connection: close"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert b"text/event-stream" in head
        assert b"x-request-id" in head
        assert b"x-aloraserve-replica" not in head, "nobody answers yet"
        await reader.readuntil(COMMENT)
        await reader.readuntil(COMMENT)
        replies.gate.set()
        rest = parts_of(b"\r\n\r\n" + await reader.read())
        assert [part[:8] for part in rest if not part.startswith(b":")][-1] == b"data: [D"
        assert b'"text":"x"' in rest[0] + rest[1]
        writer.close()


async def test_an_answer_that_begins_in_time_has_its_headers_and_no_comment(stream: Callable[..., Any]) -> None:
    async with stream(ScriptedReplies([FIRST, LAST]), 15) as server:
        received = await server.ask(post("/v1/completions", RAW, "connection: close"))
        assert b"x-aloraserve-replica: " in received
        assert b": keep-alive" not in received


async def test_a_silence_between_two_tokens_is_filled(stream: Callable[..., Any]) -> None:
    replies = GatedReplies(FIRST, LAST, held=1)
    async with stream(replies) as server:
        reader, writer = await server.connect()
        writer.write(post("/v1/completions", RAW, "connection: close"))
        await reader.readuntil(b'"text":"x"')
        for _ in range(3):
            await reader.readuntil(COMMENT)
        replies.gate.set()
        assert (await reader.read()).count(b"data: ") == 2
        writer.close()


async def test_what_is_wrong_before_the_headers_leave_has_its_status(stream: Callable[..., Any]) -> None:
    async with stream(ScriptedReplies([])) as server:
        unknown = json.dumps(BODY | {"model": "nobody"}).encode()
        assert (await server.ask(post("/v1/completions", unknown, "connection: close"))).startswith(b"HTTP/1.1 404")


async def test_what_is_wrong_after_the_headers_left_is_an_error_event(stream: Callable[..., Any]) -> None:
    replies = GatedReplies(KeyError("secret"), held=0)
    async with stream(replies) as server:
        asking = asyncio.create_task(server.ask(post("/v1/completions", RAW, "connection: close")))
        await replies.reached.wait()
        await asyncio.sleep(2 * COMMENT_S)
        replies.gate.set()
        received = await asking
        assert received.startswith(b"HTTP/1.1 200")
        [ending] = (part for part in parts_of(received) if not part.startswith(b":"))
        error, done = ending.strip().split(b"\n\n")
        assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "internal_error"
        assert b"secret" not in received
        assert done == b"data: [DONE]"


async def test_a_response_that_fails_after_its_headers_left_says_so_as_responses_do(stream: Callable[..., Any]) -> None:
    replies = GatedReplies(KeyError("secret"), held=0)
    async with stream(replies) as server:
        reader, writer = await server.connect()
        writer.write(RESPONSE)
        await reader.readuntil(COMMENT)
        replies.gate.set()
        rest = events_of(await reader.read())
        writer.close()
    received = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=rest)
    http = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: received))
    async with (
        openai.AsyncOpenAI(base_url="http://test/v1", api_key="none", http_client=http) as client,
        client.responses.stream(model="base", input="x") as events,
    ):
        created, failed = [event async for event in events]
    assert (created.type, failed.type) == ("response.created", "response.failed")
    shown = json.loads(rest.split(b"data: ")[-1])["response"]
    assert (shown["status"], shown["temperature"], shown["error"]["code"]) == ("failed", 0.5, "internal_error")
    assert b"secret" not in rest


@pytest.mark.parametrize("held", [0, 1])
async def test_a_response_that_a_gateway_s_stop_cuts_off_says_so_too(stream: Callable[..., Any], held: int) -> None:
    replies = GatedReplies(FIRST, held=held)
    async with stream(replies) as server:
        reader, writer = await server.connect()
        writer.write(RESPONSE)
        await reader.readuntil(COMMENT)
        await server.server.close()
        last = events_of(await reader.read()).strip().split(b"\n\n")[-1]
        assert last.startswith(b"event: response.failed\n")
        assert b"the gateway has stopped" in last
        writer.close()


async def test_a_client_that_leaves_before_the_first_token_ends_its_call(stream: Callable[..., Any]) -> None:
    replies = GatedReplies(FIRST, held=0)
    async with stream(replies) as server:
        reader, writer = await server.connect()
        writer.write(post("/v1/completions", RAW))
        await reader.readuntil(COMMENT)
        writer.close()
        await server.idle()
        assert replies.is_cancelled


async def test_a_gateway_that_stops_tells_those_that_wait(stream: Callable[..., Any]) -> None:
    replies = GatedReplies(FIRST, held=0)
    async with stream(replies) as server:
        reader, writer = await server.connect()
        writer.write(post("/v1/completions", RAW))
        await reader.readuntil(COMMENT)
        await server.server.close()
        assert b"the gateway has stopped" in await reader.read()
        assert replies.is_cancelled
        writer.close()


async def test_openai_s_client_and_ours_see_the_answer_alone(stream: Callable[..., Any]) -> None:
    replies = GatedReplies(FIRST, LAST, held=0)
    async with stream(replies) as server:
        url = f"http://127.0.0.1:{server.port}/v1"
        asyncio.get_running_loop().call_later(4 * COMMENT_S, replies.gate.set)
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            events = await client.completions.create(model="base", prompt="hello", stream=True)
            assert "".join([event.choices[0].text async for event in events]) == "xy"
    again = GatedReplies(FIRST, LAST, held=1)
    async with stream(again) as server, httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as http:
        asyncio.get_running_loop().call_later(4 * COMMENT_S, again.gate.set)
        read = AnswerStream(0.0)
        async with http.stream("POST", "/v1/completions", json=BODY) as answer:
            async for line in answer.aiter_lines():
                read.read(line.encode())
            assert read.answer(answer.headers).text == "xy"
