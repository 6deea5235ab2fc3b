"""Bounds of the HTTP server, over real sockets: no client holds it up, and none leaves anything behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest
from starlette.types import Receive, Scope, Send
from support.http_server import Connection, Served, get, post, serving

from aloraserve_services.http_server.limits import HttpLimits

pytestmark = pytest.mark.timeout(60)
QUICK = HttpLimits(head_timeout_s=0.1, keep_alive_s=0.1, stall_timeout_s=0.1, discard_timeout_s=0.1, tick_s=0.01)
PATIENT = HttpLimits(tick_s=0.01)
HELD = b"held"
PIECE = b"x" * 4096


class Application:
    """Answers by path; knows what began and what was cancelled."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.pieces = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        kind = scope["path"].removeprefix("/")
        try:
            await getattr(self, kind, self.ok)(receive, send)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def ok(self, receive: Receive, send: Send) -> None:
        """Read the body, and answer."""
        while (await receive()).get("more_body"):
            pass
        await answer(send, b"ok")

    async def echo(self, receive: Receive, send: Send) -> None:
        """Send the body back."""
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        await answer(send, body)

    async def three(self, receive: Receive, send: Send) -> None:
        """Send three pieces of a body whose length was not announced."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for more in (True, True, False):
            await send({"type": "http.response.body", "body": PIECE, "more_body": more})

    async def refuse(self, receive: Receive, send: Send) -> None:
        """Answer without reading the body."""
        await answer(send, b"no", status=413)

    async def wait(self, receive: Receive, send: Send) -> None:
        """Never answer."""
        self.begun.set()
        await asyncio.Event().wait()

    async def pour(self, receive: Receive, send: Send) -> None:
        """Send without end."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        self.begun.set()
        while True:
            await send({"type": "http.response.body", "body": PIECE, "more_body": True})
            self.pieces += 1
            await asyncio.sleep(0)


async def answer(send: Send, body: bytes, status: int = 200) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def app() -> Application:
    return Application()


@contextlib.asynccontextmanager
async def opened(server: Served, count: int, sent: bytes = b"") -> AsyncIterator[list[Connection]]:
    """Open connections that have sent some bytes, and nothing more."""
    connections = [await server.connect() for _ in range(count)]
    for _, writer in connections:
        writer.write(sent)
    try:
        yield connections
    finally:
        for _, writer in connections:
            writer.close()


async def ended(connection: Connection) -> bytes:
    """Return what comes until the server hangs up."""
    with contextlib.suppress(ConnectionResetError):
        return await asyncio.wait_for(connection[0].read(), 10)
    return b""


def status_of(reply: bytes) -> int:
    return int(reply.split(b" ", 2)[1])


async def test_a_request_is_answered_with_the_time(app: Application) -> None:
    async with serving(app) as server:
        reply = await server.ask(get("/"))
        assert reply.startswith(b"HTTP/1.1 200 OK\r\ndate: ")
        assert reply.endswith(b"ok")
        await server.idle()


@pytest.mark.parametrize("sent", [b"", b"POST / HTTP/1.1\r\nhost: localhost\r\n", post("/", b"xx")[:-1]])
async def test_connections_that_send_nothing_more_disturb_nobody(app: Application, sent: bytes) -> None:
    async with serving(app, PATIENT) as server, opened(server, 100, sent):
        for _ in range(20):
            assert status_of(await asyncio.wait_for(server.ask(get("/")), 1)) == 200


@pytest.mark.parametrize(("sent", "status"), [(b"", 0), (b"GET / HT", 408), (b"\r\n", 408)])
async def test_a_head_that_does_not_come_ends_its_connection(app: Application, sent: bytes, status: int) -> None:
    async with serving(app, QUICK) as server, opened(server, 3, sent) as connections:
        for connection in connections:
            reply = await ended(connection)
            assert (status_of(reply) if status else reply) == (status or b"")
            connection[1].close()
        await asyncio.wait_for(server.idle(), 10)


async def test_a_head_that_trickles_ends_its_connection(app: Application) -> None:
    """Each byte is in time, the head is not."""
    async with serving(app, QUICK) as server, opened(server, 1) as [(reader, writer)]:
        reading = asyncio.create_task(reader.read())
        for byte in get("/", "x-slow: " + "x" * 1000):
            if reading.done():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(0.005)
        assert status_of(await reading) == 408


async def test_an_idle_connection_is_closed_after_its_time(app: Application) -> None:
    async with serving(app, QUICK) as server, opened(server, 1, get("/").replace(b"close", b"keep-alive")) as [one]:
        assert (await ended(one)).endswith(b"ok")


@pytest.mark.parametrize("name", ["x-long", "x-many"])
async def test_a_head_has_a_size(app: Application, name: str) -> None:
    limits = HttpLimits(max_head_bytes=4096)
    headers = ["x-long: " + "x" * 8000] if name == "x-long" else [f"x-many-{i}: 1" for i in range(500)]
    async with serving(app, limits) as server:
        reply = await server.ask(get("/", *headers))
        assert status_of(reply) == 431
        assert "more than 4096 bytes" in json.loads(reply.partition(b"\r\n\r\n")[2])["error"]["message"]
        assert status_of(await server.ask(get("/", "x: " + "x" * 2000))) == 200


async def test_a_head_without_an_end_is_not_kept(app: Application) -> None:
    async with serving(app, HttpLimits(max_head_bytes=4096)) as server:
        connection = await server.connect()
        connection[1].write(b"GET / HTTP/1.1\r\n" + b"x" * 100_000)
        assert status_of(await ended(connection)) == 431
        connection[1].close()


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
async def test_a_wish_for_another_protocol_is_passed_over(app: Application, protocol: str) -> None:
    """Java's client wishes for HTTP/2 with a body; the request is answered as it is."""
    wish = post("/echo", b"hello", f"Upgrade: {protocol}", "connection: Upgrade, HTTP2-Settings, close")
    async with serving(app) as server:
        assert (await asyncio.wait_for(server.ask(wish), 10)).endswith(b"hello")


async def test_a_wish_that_arrives_in_halves_ends_the_connection_with_its_answer(app: Application) -> None:
    """The parser reads nothing further: a next request would wait for ever."""
    wish = get("/", "Upgrade: h2c").replace(b"connection: close", b"connection: Upgrade")
    async with serving(app) as server, opened(server, 1) as [(reader, writer)]:
        half = wish.index(b"grade: h2c")
        writer.write(wish[:half])
        while not any(connection._head_bytes for connection in server.server._state.connections):  # type: ignore[union-attr]  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        writer.write(wish[half:] + get("/"))
        assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"ok")
        await server.idle()


async def test_what_is_not_http_is_refused(app: Application) -> None:
    async with serving(app) as server:
        reply = await server.ask(b"\x16\x03\x01 TLS, in truth\r\n\r\n")
        assert status_of(reply) == 400
        assert json.loads(reply.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"


async def test_beyond_its_connections_only_probes_are_answered(app: Application) -> None:
    async with serving(app, HttpLimits(max_connections=5, max_surplus_connections=3)) as server, opened(server, 5):
        reply = await server.ask(get("/"))
        assert status_of(reply) == 503
        assert b"retry-after: 1" in reply
        assert status_of(await server.ask(get("/healthz"))) == 200
        async with opened(server, 4) as surplus:
            assert await ended(surplus[0]) == b"", "one too many of those as well: the oldest goes"
            assert status_of(await server.ask(get("/healthz"))) == 200, "whoever waits keeps no probe out"
    async with serving(app, HttpLimits(max_connections=5)) as server:
        for _ in range(20):
            assert status_of(await server.ask(get("/"))) == 200


async def test_a_client_that_goes_away_ends_its_request_at_once(app: Application) -> None:
    async with serving(app) as server, asyncio.timeout(60):
        _, writer = await server.connect()
        writer.write(get("/wait"))
        await app.begun.wait()
        writer.close()
        await app.cancelled.wait()
        await server.idle()


async def test_a_client_that_never_reads_stops_the_application_and_is_dropped(app: Application) -> None:
    async with serving(app, QUICK) as server, opened(server, 1, get("/pour")), asyncio.timeout(20):
        await app.cancelled.wait()
        await server.idle()
        assert app.pieces < 1000, "no more than the sockets' buffers hold"


async def test_a_slow_client_is_waited_for_as_long_as_it_reads(app: Application) -> None:
    """The times are the test's own: it takes many times as long as a client may read nothing."""
    limits = HttpLimits(stall_timeout_s=10, tick_s=3600)
    async with serving(app, limits) as server, opened(server, 1, get("/pour")) as [(reader, _)]:
        await app.begun.wait()
        (connection,) = server.server._state.connections
        now = asyncio.get_running_loop().time()
        for _ in range(50):
            before = app.pieces
            while app.pieces == before:
                await reader.readexactly(64 << 10)
            await until_paused(connection)
            now += 9
            connection.expire(now)  # type: ignore[union-attr]
        assert not app.cancelled.is_set()
        connection.expire(now + 11)  # type: ignore[union-attr]
        await asyncio.wait_for(app.cancelled.wait(), 10)


async def until_paused(connection: Any) -> None:
    """Wait until the application may not write more."""
    while not connection.flow.write_paused:  # noqa: ASYNC110 - a transport reports to its protocol alone
        await asyncio.sleep(0)


async def test_a_refused_body_is_not_read_to_its_end(app: Application) -> None:
    limits = HttpLimits(max_discarded_bytes=1 << 20, tick_s=0.01)
    async with serving(app, limits) as server, opened(server, 1) as [(reader, writer)]:
        writer.write(post("/refuse", b"")[:-6].rpartition(b"\r\n")[0] + b"\r\ncontent-length: 1000000000\r\n\r\n")
        assert status_of(await reader.readuntil(b"\r\n\r\nno")) == 413
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 64 << 20:
                writer.write(b"x" * 65536)
                await writer.drain()
                sent += 65536
        assert sent < 32 << 20
        await asyncio.wait_for(server.idle(), 10)


async def test_a_refused_body_that_ends_keeps_its_connection(app: Application) -> None:
    async with serving(app) as server, opened(server, 1) as [(reader, writer)]:
        writer.write(post("/refuse", b"x" * 200_000))
        assert status_of(await reader.readuntil(b"\r\n\r\nno")) == 413
        writer.write(get("/"))
        assert (await reader.read()).endswith(b"ok")


async def test_a_refused_body_that_does_not_come_ends_its_connection(app: Application) -> None:
    limits = HttpLimits(discard_timeout_s=0.1, tick_s=0.01)
    async with serving(app, limits) as server, opened(server, 1, post("/refuse", b"x" * 100)[:-50]) as [one]:
        assert status_of(await ended(one)) == 413
        await asyncio.wait_for(server.idle(), 10)


async def test_pipelined_requests_are_answered_in_order(app: Application) -> None:
    async with serving(app) as server:
        kept = get("/").replace(b"close", b"keep-alive")
        assert (await server.ask(kept * 5 + get("/"))).count(b"HTTP/1.1 200 OK") == 6
        await server.idle()


async def test_a_head_that_comes_in_part_with_another_body_is_read_on(app: Application) -> None:
    first, second = post("/echo", b"x" * 60_000), get("/")
    async with serving(app) as server, opened(server, 1, first + second[:10]) as [(reader, writer)]:
        await reader.readuntil(b"x" * 60_000)
        writer.write(second[10:])
        assert (await reader.read()).endswith(b"ok")


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.0\r\nconnection: keep-alive"])
async def test_a_client_of_before_chunks_is_sent_none(app: Application, version: bytes) -> None:
    async with serving(app) as server:
        reply = await server.ask(b"GET /three " + version + b"\r\n\r\n")
        head, _, body = reply.partition(b"\r\n\r\n")
        assert body == 3 * PIECE
        assert b"transfer-encoding" not in head
        assert b"connection: close" in head
        assert (await server.ask(b"GET / HTTP/1.0\r\n\r\n")).endswith(
            b"content-length: 2\r\nconnection: close\r\n\r\nok"
        )


CHUNKED = b"POST /echo HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize("flood", [b"0\r\n" + b"x: y\r\n" * 11_000, b"0\r\nx: ", b"1;x="])
async def test_a_body_of_framing_alone_is_not_kept(app: Application, flood: bytes) -> None:
    """Trailers and extensions of chunks are no part of the body, whose readers bound its length alone."""
    limits = HttpLimits(max_discarded_bytes=1 << 20, tick_s=0.01)
    async with serving(app, limits) as server, opened(server, 1, CHUNKED + b"1\r\na\r\n" + flood) as [(_, writer)]:
        sent, more = 0, (flood.partition(b"\r\n")[2] if flood.endswith(b"\n") else b"x" * 65_536)
        with contextlib.suppress(ConnectionError):
            while sent < 64 << 20:
                writer.write(more)
                await writer.drain()
                sent += len(more)
        assert sent < 32 << 20
        await asyncio.wait_for(server.idle(), 10)


async def test_small_chunks_and_trailers_are_taken(app: Application) -> None:
    async with serving(app) as server:
        body = b"1\r\nx\r\n" * 100_000 + b"0\r\nauthorization: Bearer other\r\n\r\n"
        assert (await server.ask(CHUNKED + body)).endswith(b"\r\n\r\n" + b"x" * 100_000)


async def test_a_trailer_is_no_header() -> None:
    """A proxy in front may have looked at the headers alone."""

    async def names(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b" ".join(name for name, _ in scope["headers"]))

    async with serving(names) as server:
        reply = await server.ask(CHUNKED + b"0\r\nauthorization: Bearer other\r\n\r\n")
        assert reply.endswith(b"\r\n\r\nhost transfer-encoding connection")


async def test_rubbish_after_a_request_does_not_disturb_its_answer(app: Application) -> None:
    async with serving(app) as server:
        reply = await server.ask(get("/").replace(b"close", b"keep-alive") + b"\x00rubbish\r\n\r\n")
        assert reply.startswith(b"HTTP/1.1 200 OK")
        assert b"ok" in reply


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection as a process that is killed does."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def held() -> tuple[int, int]:
    return psutil.Process().num_fds(), len(asyncio.all_tasks())


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", post("/", b"x" * 100_000)[:-10], get("/wait"), get("/pour"), get("/")]
)
async def test_connections_that_are_reset_leave_nothing_behind(app: Application, sent: bytes) -> None:
    async with serving(app) as server, asyncio.timeout(30):
        await server.ask(get("/"))
        await server.idle()
        before = held()
        for _ in range(20):
            connections = [await server.connect() for _ in range(25)]
            for _, writer in connections:
                writer.write(sent)
            await asyncio.sleep(0)
            for _, writer in connections:
                reset(writer)
        await server.idle()
        await server.ask(get("/"))
        await server.idle()
        assert held() == before


async def test_the_end_of_the_server_ends_its_requests(app: Application) -> None:
    async with serving(app) as server, opened(server, 1, get("/wait")) as [one]:
        await app.begun.wait()
        await server.server.close()
        assert status_of(await ended(one)) == 503
        assert app.cancelled.is_set()
        with pytest.raises(ConnectionRefusedError):
            await server.connect()


async def test_whoever_is_connected_is_answered_after_the_listener_is_closed(app: Application) -> None:
    async with serving(app) as server, opened(server, 1) as [(reader, writer)]:
        server.server.stop_accepting()
        with pytest.raises(ConnectionRefusedError):
            await server.connect()
        writer.write(get("/"))
        assert (await reader.read()).endswith(b"ok")


async def test_a_server_whose_clock_stops_is_not_healthy(app: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(app) as server:
        server.server.check()

        def fail(*_: Any) -> None:
            raise RuntimeError("it broke")

        monkeypatch.setattr(server.server, "_set_date", fail)
        await asyncio.wait({server.server._ticking})  # type: ignore[arg-type]
        with pytest.raises(RuntimeError, match="it broke"):
            server.server.check()
