"""The gRPC server's port, certificates and bounds, without a gateway."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.certificates import Files, write_certificate
from support.redis_deployments import free_port

from aloraserve.errors import StartError
from aloraserve_services.grpc_server.limits import GrpcLimits
from aloraserve_services.grpc_server.server import GrpcServer
from aloraserve_services.http_server.listening import SharedPort
from aloraserve_services.http_server.tls_files import TlsFiles

HOST = "127.0.0.1"
LIMITS = GrpcLimits(max_message_bytes=1000)


class Echo(grpc.GenericRpcHandler):
    """Answers any method with the message, and says how many are in progress."""

    def __init__(self) -> None:
        self.hold = asyncio.Event()
        self.hold.set()
        self.begun = asyncio.Event()

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._echo)

    async def _echo(self, message: bytes, context: Any) -> bytes:
        self.begun.set()
        await self.hold.wait()
        return message


@contextlib.asynccontextmanager
async def listening(
    echo: Echo, limits: GrpcLimits = LIMITS, tls: TlsFiles | None = None
) -> AsyncIterator[tuple[GrpcServer, int]]:
    server = GrpcServer([echo], limits)
    port = await server.start(HOST, 0, tls)
    try:
        yield server, port
    finally:
        await server.close()


def channel(port: int, authority: Files | None = None, client: Files | None = None) -> Any:
    # A channel of another test's, or of this one's, may have a connection there.
    options: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1)]
    if authority is None:
        return grpc.aio.insecure_channel(f"{HOST}:{port}", options)
    own = (client[1].read_bytes(), client[0].read_bytes()) if client else (None, None)
    credentials = grpc.ssl_channel_credentials(authority[0].read_bytes(), *own)
    options += [("grpc.ssl_target_name_override", authority[0].stem)]
    return grpc.aio.secure_channel(f"{HOST}:{port}", credentials, options)


async def echoed(port: int, message: bytes = b"x", **how: Any) -> bytes:
    async with channel(port, **how) as opened:
        answer: bytes = await opened.unary_unary("/a/b")(message, timeout=5)
        return answer


async def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    code: grpc.StatusCode = raised.value.code()
    return code


async def test_a_message_that_is_too_long_is_refused() -> None:
    async with listening(Echo()) as (_, port):
        assert await echoed(port, b"x" * 1000) == b"x" * 1000
        assert await code_of(echoed(port, b"x" * 1001)) is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_more_connections_than_are_accepted_are_refused() -> None:
    async with listening(Echo(), GrpcLimits(1000, max_connections=1)) as (_, port), channel(port) as first:
        assert await first.unary_unary("/a/b")(b"x") == b"x"
        async with channel(port) as second:
            assert await code_of(second.unary_unary("/a/b")(b"x", timeout=1)) in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            )


async def test_calls_in_progress_end_and_no_more_are_taken() -> None:
    echo = Echo()
    echo.hold.clear()
    async with listening(echo) as (server, port), channel(port) as opened:
        running = asyncio.ensure_future(opened.unary_unary("/a/b")(b"x"))
        await echo.begun.wait()
        server.stop_accepting(grace_s=30)
        assert await code_of(echoed(port)) is grpc.StatusCode.UNAVAILABLE
        echo.hold.set()
        assert await running == b"x"


async def test_whoever_keeps_the_port_lets_the_server_and_its_fleet_listen(tmp_path: Path) -> None:
    port = free_port()
    kept = SharedPort(HOST, port, "ours", tmp_path, setting="grpc_port", is_listening=False)
    servers = [GrpcServer([Echo()], LIMITS) for _ in range(2)]
    assert [await server.start(HOST, port) for server in servers] == [port, port]
    assert await echoed(port) == b"x"
    with pytest.raises(StartError, match="--grpc-port or ALORASERVE_GRPC_PORT"):
        SharedPort(HOST, port, "others", tmp_path, setting="grpc_port", is_listening=False)
    for server in servers:
        await server.close()
    kept.release()
    kept.socket.close()


def test_a_stranger_s_port_is_noticed(tmp_path: Path) -> None:
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind((HOST, 0))
        stranger.listen()
        with pytest.raises(StartError, match="cannot be used"):
            SharedPort(HOST, stranger.getsockname()[1], "ours", tmp_path, is_listening=False)


@pytest.fixture
def files(tmp_path: Path) -> Callable[[str], Files]:
    return lambda name: write_certificate(tmp_path, name)


async def test_a_certificate_that_changes_counts_from_the_next_connection_on(files: Callable[[str], Files]) -> None:
    first, other = files("first"), files("other")
    tls = TlsFiles(*first)
    async with listening(Echo(), tls=tls) as (_, port):
        assert await echoed(port, authority=first) == b"x"
        assert await code_of(echoed(port, authority=other)) is grpc.StatusCode.UNAVAILABLE
        for own, new in zip(first, other, strict=True):
            own.write_bytes(new.read_bytes())
        assert tls.reload()
        assert await echoed(port, authority=other) == b"x"


async def test_clients_show_a_certificate_where_they_must(files: Callable[[str], Files]) -> None:
    server, client, stranger = files("server"), files("client"), files("stranger")
    async with listening(Echo(), tls=TlsFiles(*server, client[0])) as (_, port):
        assert await echoed(port, authority=server, client=client) == b"x"
        assert await code_of(echoed(port, authority=server)) is grpc.StatusCode.UNAVAILABLE
        assert await code_of(echoed(port, authority=server, client=stranger)) is grpc.StatusCode.UNAVAILABLE
