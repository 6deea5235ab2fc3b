"""The gateway's HTTP server around any application, on a free port of the loopback address."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.types import ASGIApp

from aloraserve_services.http_server.limits import HttpLimits
from aloraserve_services.http_server.server import HttpServer

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Served:
    """A server that runs.

    Args:
        server: itself.
        port: that it listens on.
    """

    server: HttpServer
    port: int

    async def connect(self, tls: ssl.SSLContext | None = None) -> Connection:
        """Return a connection to it."""
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=tls)

    async def ask(self, request: bytes) -> bytes:
        """Return everything that comes back for a request on a connection of its own, until it is closed."""
        reader, writer = await self.connect()
        try:
            writer.write(request)
            return await reader.read()
        finally:
            writer.close()

    async def idle(self) -> None:
        """Wait until it has neither a connection nor a request."""
        while self.server.connections or self.server.tasks:  # noqa: ASYNC110 - a server reports to nobody
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp, limits: HttpLimits | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Served]:
    """Serve an application for the time of the context."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = HttpServer(app, limits or HttpLimits(tick_s=0.01), tls)
    await server.start(listening)
    try:
        yield Served(server, listening.getsockname()[1])
    finally:
        await server.close()


def get(path: str, *headers: str) -> bytes:
    """Return a request that has its connection closed after the answer."""
    lines = [f"GET {path} HTTP/1.1", "host: localhost", "connection: close", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def post(path: str, body: bytes, *headers: str) -> bytes:
    """Return a request with a JSON body."""
    lines = [f"POST {path} HTTP/1.1", "host: localhost", "content-type: application/json", *headers]
    return ("\r\n".join([*lines, f"content-length: {len(body)}"]) + "\r\n\r\n").encode() + body
