"""Requests that no client library writes: refused or answered, at once, and nothing is smuggled in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from support.http_server import Served, get, serving
from support.raw_http import POST, REFUSED, TAKEN, statuses

from aloraserve.wire import ChatRequest
from aloraserve_services.gateway.request_body import BodyReader
from aloraserve_services.gateway.routes import Routes
from aloraserve_services.http_server.limits import HttpLimits

LIMITS = HttpLimits(head_timeout_s=0.5, discard_timeout_s=0.5, tick_s=0.02)
SECRET = b"what only a request of its own may see"
pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def server() -> AsyncIterator[Served]:
    reader = BodyReader(256, 0.5)

    async def chat(request: Request) -> Response:
        return PlainTextResponse((await reader.read(ChatRequest, request)).model)

    async def healthz(request: Request) -> Response:
        return PlainTextResponse("ok")

    async def smuggled(request: Request) -> Response:
        return PlainTextResponse(SECRET)

    routes = Routes(loopback_only=lambda: True)
    routes.add("POST", "/v1/chat/completions", chat)
    routes.add("GET", "/healthz", healthz)
    routes.add("GET", "/smuggled", smuggled)
    async with serving(routes, LIMITS) as served:
        yield served


@pytest.mark.parametrize("shape", REFUSED)
async def test_what_is_not_plain_http_is_refused_in_one_answer_and_the_connection_ends(
    server: Served, shape: str
) -> None:
    async with asyncio.timeout(20):
        reply = await server.ask(REFUSED[shape])
        await server.idle()
    assert SECRET not in reply
    [status] = statuses(reply)
    assert 400 <= status < 500
    error = json.loads(reply.partition(b"\r\n\r\n")[2])["error"]
    assert error["message"]
    assert error["type"] == "invalid_request_error"
    assert (await server.ask(get("/healthz"))).endswith(b"ok")


@pytest.mark.parametrize("shape", TAKEN)
async def test_what_is_unusual_is_answered(server: Served, shape: str) -> None:
    async with asyncio.timeout(20):
        reply = await server.ask(TAKEN[shape])
    assert set(statuses(reply)) <= {200, 100}, reply


async def test_pipelined_requests_are_answered_up_to_the_one_that_is_not_http(server: Served) -> None:
    fine = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
    async with asyncio.timeout(20):
        reply = await server.ask(fine * 50 + b"rubbish\r\n\r\n" + fine)
    found = statuses(reply)
    # Rubbish behind a request that is still being answered ends the connection with that answer.
    assert found in ([200] * len(found), [200] * (len(found) - 1) + [400])
    assert 1 <= len(found) <= 51


async def test_a_chunked_body_that_never_ends_is_refused_in_its_time(server: Served) -> None:
    reader, writer = await server.connect()
    writer.write(POST + b"transfer-encoding: chunked\r\n\r\n")

    async def trickle() -> None:
        while not writer.is_closing():
            writer.write(b"1\r\n \r\n")
            await asyncio.sleep(0.01)

    trickling = asyncio.create_task(trickle())
    try:
        async with asyncio.timeout(20):
            assert statuses(await reader.read(4096)) == [408]
            await server.idle()
    finally:
        trickling.cancel()
        writer.close()
