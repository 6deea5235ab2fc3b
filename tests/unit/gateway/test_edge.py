"""The edge of a gateway over real sockets: what it refuses before a call, and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from support.fake_engines import Engines, WaitingReplies
from support.fake_pool import ScriptedReplies
from support.http_server import Served, get, post, serving
from support.redis_deployments import free_port

from aloraserve.errors import DrainingError, InvalidRequestError, OverloadedError
from aloraserve.serving.engine_messages import EngineChunk
from aloraserve.settings import Settings
from aloraserve.tenants import UNTENANTED, Caller
from aloraserve.wire import CompletionRequest
from aloraserve_services.gateway import body_budget, request_body
from aloraserve_services.gateway import server as gateway_server_module
from aloraserve_services.gateway.call_slots import CallSlots
from aloraserve_services.gateway.request_body import BodyReader
from aloraserve_services.gateway.routes import Routes, check_host
from aloraserve_services.gateway.server import GatewayServer

BODY = json.dumps({"model": "base", "prompt": "hello"}).encode()
pytestmark = pytest.mark.timeout(60)


def status_of(reply: bytes) -> int:
    return int(reply.split(b" ", 2)[1])


def error_of(reply: bytes) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(reply.partition(b"\r\n\r\n")[2])["error"]
    return error


def application(reader: BodyReader, *, loopback_only: bool = False) -> Routes:
    async def echo(request: Request) -> Response:
        return PlainTextResponse(str((await reader.read(CompletionRequest, request)).prompt))

    async def fine(request: Request) -> Response:
        return PlainTextResponse("ok")

    routes = Routes(loopback_only=lambda: loopback_only)
    routes.add("POST", "/echo", echo)
    routes.add("GET", "/fine", fine)
    return routes


@pytest.fixture
async def server() -> AsyncIterator[Served]:
    async with serving(application(BodyReader(64, 0.2))) as served:
        yield served


async def test_a_body_is_read_whole_or_in_pieces(server: Served) -> None:
    whole = await server.ask(post("/echo", BODY, "connection: close"))
    assert whole.endswith(b"hello")
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"
    head = post("/echo", b"", "connection: close", "transfer-encoding: chunked").replace(b"content-length: 0\r\n", b"")
    assert (await server.ask(head + chunks)).endswith(b"hello")


async def test_a_body_that_is_declared_too_long_is_refused_unread(server: Served) -> None:
    head = post("/echo", b"").replace(b"content-length: 0", b"content-length: 9999999")
    reader, writer = await server.connect()
    writer.write(head)
    reply = await reader.readuntil(b"\r\n\r\n")
    assert status_of(reply) == 413
    writer.close()


async def test_a_body_without_a_length_is_refused_where_it_gets_too_long(server: Served) -> None:
    head = post("/echo", b"", "connection: close", "transfer-encoding: chunked").replace(b"content-length: 0\r\n", b"")
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    reader, writer = await server.connect()
    writer.write(head + chunk * 5)
    assert status_of(await reader.readuntil(b"\r\n\r\n")) == 413
    writer.close()


@pytest.mark.parametrize("sent", [0, 1, len(BODY) - 1])
async def test_a_body_that_does_not_come_is_refused(server: Served, sent: int) -> None:
    reply = await server.ask(post("/echo", BODY)[: sent - len(BODY)])
    assert status_of(reply) == 408
    assert f"{sent} bytes came" in error_of(reply)["message"]


async def test_a_body_that_comes_fast_enough_has_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_body, "MIN_BYTES_PER_S", 10)
    async with serving(application(BodyReader(64, 0.3))) as server:
        reader, writer = await server.connect()
        head, piece = post("/echo", BODY, "connection: close")[: -len(BODY)], BODY[:20]
        writer.write(head)
        for start in range(0, len(BODY), len(piece)):
            writer.write(BODY[start : start + len(piece)])
            await asyncio.sleep(0.25)
        assert (await reader.read()).endswith(b"hello")
        writer.close()


async def test_bodies_that_are_being_read_have_a_bound_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_budget, "TOTAL_BODIES", 1)
    reader = BodyReader(64, 5)
    async with serving(application(reader)) as server:
        long = b" " * 200_000 + BODY
        waiting = await server.connect()
        waiting[1].write(post("/echo", long, "connection: close")[:-1])
        while reader.budget.held_bytes < 200_000:  # noqa: ASYNC110 - a reader reports to nobody
            await asyncio.sleep(0.001)
        reply = await asyncio.wait_for(server.ask(post("/echo", long, "connection: close")), 10)
        assert status_of(reply) == 429
        waiting[1].write(BODY[-1:])
        assert (await waiting[0].read()).endswith(b"hello")
        waiting[1].close()
        await server.idle()
        assert reader.budget.held_bytes == 0


@pytest.mark.parametrize(
    ("media_type", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("", 415),
        (None, 415),
    ],
)
async def test_a_body_is_declared_to_be_json(server: Served, media_type: str | None, status: int) -> None:
    """A web page can send anything else to another site without being asked first."""
    line = "" if media_type is None else f"content-type: {media_type}\r\n"
    request = post("/echo", BODY, "connection: close").replace(b"content-type: application/json\r\n", line.encode())
    assert status_of(await server.ask(request)) == status


@pytest.mark.parametrize("path", ["/fine/", "//fine", "/nowhere", "/", "/fine%00", "/v1/receipts/"])
async def test_a_path_that_is_not_there_is_a_404_and_no_redirect(server: Served, path: str) -> None:
    reply = await server.ask(get(path))
    assert status_of(reply) == 404
    assert b"location:" not in reply.lower()


async def test_head_is_answered_as_get_is(server: Served) -> None:
    reply = await server.ask(get("/fine").replace(b"GET", b"HEAD"))
    assert status_of(reply) == 200
    assert reply.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.2:80", "[::1]", "[::1]:8000", None]
)
def test_this_machine_s_names_are_accepted(host: str | None) -> None:
    check_host(host)


@pytest.mark.parametrize(
    "host", ["evil.example:8000", "localhost.evil.example", "10.0.0.1", "", "[::2]:80", "[", "127.0.0.1.evil", "::1"]
)
def test_any_other_host_is_refused(host: str) -> None:
    with pytest.raises(InvalidRequestError, match="a platform without keys is called as localhost"):
        check_host(host)


@pytest.mark.parametrize(("loopback_only", "status"), [(True, 400), (False, 200)])
async def test_the_host_matters_where_there_is_nothing_else_to_go_by(loopback_only: bool, status: int) -> None:
    async with serving(application(BodyReader(64, 1), loopback_only=loopback_only)) as server:
        reply = await server.ask(get("/fine").replace(b"localhost", b"evil.example"))
        assert status_of(reply) == status


@pytest.mark.parametrize("value", [b"\xff\xfe", "übel".encode(), "übel".encode("latin-1"), b"\x80" * 300])
@pytest.mark.parametrize(
    "name", [b"x-request-id", b"x-session-id", b"traceparent", b"authorization", b"host", b"content-type", b"any"]
)
async def test_a_header_of_any_bytes_is_no_fault_of_the_server_s(
    name: bytes, value: bytes, open_gateway: Callable[..., Any]
) -> None:
    gateway = open_gateway()
    async with serving(gateway.http_app()) as server:
        request = post("/v1/completions", BODY, "connection: close")
        if name == b"host":
            request = request.replace(b"host: localhost", b"host: " + value)
        else:
            request = request.replace(b"\r\n", b"\r\n" + name + b": " + value + b"\r\n", 1)
        reply = await server.ask(request)
        assert status_of(reply) < 500
        assert reply.count(b"x-request-id: ") == 1


async def test_the_request_id_is_sent_back_if_it_is_a_plain_one(open_gateway: Callable[..., Any]) -> None:
    async with serving(open_gateway().http_app()) as server:
        assert b"\r\nx-request-id: mine-1\r\n" in await server.ask(get("/healthz", "x-request-id: mine-1"))
        assert b"not plain" not in await server.ask(get("/healthz", "x-request-id: not plain"))


def test_no_more_calls_than_there_is_room_for() -> None:
    slots = CallSlots(2)
    with slots.held(UNTENANTED), slots.held(UNTENANTED), pytest.raises(OverloadedError):
        slots.check(UNTENANTED)
    slots.check(UNTENANTED)


def test_a_tenant_that_takes_every_slot_leaves_others_their_share() -> None:
    """By weight, and never more than twice the slots in all."""
    greedy, heavy, late = Caller("greedy"), Caller("heavy"), Caller("late")
    slots = CallSlots(6, lambda caller: 2.0 if caller == heavy else 1.0)
    with contextlib.ExitStack() as held:

        def taken(caller: Caller) -> int:
            for count in itertools.count():
                try:
                    held.enter_context(slots.held(caller))
                except OverloadedError:
                    return count
            raise AssertionError

        assert (taken(greedy), taken(heavy), taken(late)) == (6, 4, 1)
        assert [taken(Caller(str(number))) for number in range(3)] == [1, 0, 0]
    slots.check(late)


async def test_a_drain_waits_for_running_calls_and_takes_no_more() -> None:
    slots = CallSlots(2)
    with slots.held(UNTENANTED):
        draining = asyncio.create_task(slots.drain(10))
        await asyncio.sleep(0)
        assert slots.is_leaving
        with pytest.raises(DrainingError):
            slots.check(UNTENANTED)
        assert not draining.done()
    assert await asyncio.wait_for(draining, 8) == 0


async def test_a_drain_ends_after_its_time() -> None:
    slots = CallSlots(2)
    with slots.held(UNTENANTED):
        assert await slots.drain(0.01) == 1


@pytest.fixture
def gateway_server(open_gateway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., GatewayServer]:
    """Make a gateway's server that finds no proxies of Serve, and a fleet of its own."""

    async def no_proxies(port: int) -> None:
        """There is no Serve."""

    monkeypatch.setattr(gateway_server_module, "refuse_proxies", no_proxies)
    monkeypatch.setattr(gateway_server_module, "_fleet", lambda settings: "test")

    def made(settings: Settings) -> GatewayServer:
        gateway = open_gateway(**settings.model_dump(include={"port", "state_dir", "drain_delay_s"}))
        return GatewayServer(settings, gateway.http_app(), gateway.slots, gateway.metrics)

    return made


async def test_before_it_drains_a_gateway_is_not_ready_but_takes_calls(
    gateway_server: Callable[..., GatewayServer], tmp_path: Path
) -> None:
    """Load balancers follow meanwhile, so that no connection is refused."""
    settings = Settings(port=free_port(), state_dir=tmp_path, drain_delay_s=600)
    server, url = gateway_server(settings), f"http://127.0.0.1:{settings.port}"
    await server.start()
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, trust_env=False, limits=limits) as client:
        assert (await client.get("/readyz")).headers.get("connection") != "close"
        stopping = asyncio.create_task(server.stop())
        probes = {probe: (await client.get(probe)).status_code for probe in ("/readyz", "/health", "/-/healthz")}
        assert set(probes.values()) == {503}, probes
        answer = await client.post("/v1/completions", json={"model": "base", "prompt": "hello"})
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        stopping.cancel()
        await asyncio.wait([stopping])
        await server.stop()
        with pytest.raises(httpx.ConnectError):
            await client.get("/readyz")


async def test_while_it_drains_a_gateway_is_alive_but_not_ready(open_gateway: Callable[..., Any]) -> None:
    gateway = open_gateway()
    async with (
        serving(gateway.http_app()) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        assert (await client.get("/readyz")).status_code == 200
        await gateway.slots.drain(0)
        ready, alive = await client.get("/readyz"), await client.get("/healthz")
        assert (ready.status_code, ready.text, alive.status_code) == (503, "draining\n", 200)
        refused = await client.post("/v1/completions", json={"prompt": "x" * 200_000})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.headers["connection"] == "close"
        assert (await client.get("/-/healthz")).status_code == 503, "it is one of Serve's proxies that drains"


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_a_call_is_in_progress_until_its_answer_ends(
    open_gateway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, is_streamed: bool
) -> None:
    replies = WaitingReplies()
    monkeypatch.setattr(Engines, "dispatch", lambda *_: replies)
    body = json.dumps({"model": "base", "prompt": "hello", "stream": is_streamed}).encode()
    gateway = open_gateway()
    async with serving(gateway.http_app()) as server, asyncio.timeout(60):
        _, writer = await server.connect()
        writer.write(post("/v1/completions", body))
        await replies.waiting.wait()
        assert await gateway.slots.drain(0) == 1
        writer.close()
        assert await gateway.slots.drain(10) == 0


async def test_a_stream_whose_client_does_not_read_is_aborted_when_the_client_goes(
    open_gateway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is being generated for it then: the next piece waits for the last one to be taken."""
    replies = ScriptedReplies([EngineChunk(0, "x" * 4096, 1)] * 100_000)
    monkeypatch.setattr(Engines, "dispatch", lambda *_: replies)
    body = json.dumps({"model": "base", "prompt": "hello", "stream": True}).encode()
    async with serving(open_gateway().http_app()) as server, asyncio.timeout(20):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.sendall(post("/v1/completions", body))
        while not server.server._state.connections:  # noqa: ASYNC110 - a server reports to nobody
            await asyncio.sleep(0.001)
        (connection,) = server.server._state.connections
        while not connection.flow.write_paused:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        client.close()
        await server.idle()
        assert replies.is_cancelled


async def test_a_stream_that_is_cut_off_ends_with_an_error(
    open_gateway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = WaitingReplies()
    monkeypatch.setattr(Engines, "dispatch", lambda *_: replies)
    body = json.dumps({"model": "base", "prompt": "hello", "stream": True}).encode()
    async with serving(open_gateway().http_app()) as server:
        asking = asyncio.create_task(server.ask(post("/v1/completions", body)))
        await asyncio.wait_for(replies.waiting.wait(), 10)
        await server.server.close()
        *_, error, done = (await asking).split(b"data: ")
        assert b"the gateway has stopped; the answer is incomplete" in error
        assert done.startswith(b"[DONE]")
        assert replies.is_cancelled
