"""The server: its listener, its clock, and its end."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import ssl
import sys
import time
from email.utils import formatdate

import structlog
from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.server import ServerState

from aloraserve_services.http_server.limits import HttpLimits
from aloraserve_services.http_server.listening import BACKLOG
from aloraserve_services.http_server.protocol import BoundedProtocol
from aloraserve_services.http_server.tls_listener import TlsListener

UNSENT_BYTES = 64 << 10
"""What the kernel takes of a connection before it has sent it: a client that does not read costs that much."""
OTHER_FILES = 512
"""Files that a gateway's process has open beside its connections."""
CLOSE_TIMEOUT_S = 5.0
log = structlog.get_logger(__name__)


class HttpServer:
    """Serves an ASGI application on a listening socket, in the running event loop.

    Args:
        app: to be served; it has no lifespan of its own.
        limits: of its connections.
        tls: context of the listener, None for plain HTTP.
    """

    def __init__(self, app: ASGIApp, limits: HttpLimits, tls: ssl.SSLContext | None = None) -> None:
        self._limits = limits
        self._tls = tls
        self._state = ServerState()
        self._config = Config(
            app,
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level=logging.ERROR,
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=limits.keep_alive_s,  # type: ignore[arg-type]
        )
        self._config.load()
        self._surplus: dict[BoundedProtocol, None] = {}
        self._listener: asyncio.Server | TlsListener | None = None
        self._ticking: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return len(self._state.connections)

    @property
    def tasks(self) -> int:
        """Requests that are being answered."""
        return len(self._state.tasks)

    async def start(self, listening: socket.socket) -> None:
        """Accept connections from now on.

        Args:
            listening: bound and listening; it is closed by :meth:`stop_accepting`.
        """
        _allow_open_files(self._limits.max_connections + self._limits.max_surplus_connections + OTHER_FILES)
        _bound_unsent(listening)
        self._set_date()
        self._listener = await self._listen(listening)
        self._ticking = asyncio.create_task(self._tick(), name="http_server")

    async def use_tls(self, tls: ssl.SSLContext) -> None:
        """Have connections from now on use another context; those that are open, or wait to be accepted, stay."""
        self._tls = tls
        if isinstance(self._listener, TlsListener):
            self._listener.context = tls

    def check(self) -> None:
        """Raise if the server has stopped by itself."""
        if isinstance(self._listener, TlsListener):
            self._listener.check()
        if self._ticking is not None and self._ticking.done():
            self._ticking.result()

    def stop_accepting(self) -> None:
        """Close the listener; connections that are open stay open."""
        if self._listener is not None:
            self._listener.close()

    async def close(self) -> None:
        """Cancel what is being answered, and close every connection."""
        self.stop_accepting()
        if isinstance(self._listener, TlsListener):
            self._listener.end_handshakes()
        for task in list(self._state.tasks):
            task.cancel()
        for connection in list(self._state.connections):
            connection.finish()  # type: ignore[union-attr]
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                while self._state.connections or self._state.tasks:  # noqa: ASYNC110 - uvicorn's sets report to nobody
                    await asyncio.sleep(0.01)
        except TimeoutError:
            for connection in list(self._state.connections):
                connection.transport.abort()
        if self._ticking is not None:
            self._ticking.cancel()

    async def _listen(self, listening: socket.socket) -> asyncio.Server | TlsListener:
        loop, limits = asyncio.get_running_loop(), self._limits

        def protocol() -> BoundedProtocol:
            return BoundedProtocol(self._config, self._state, limits, loop, self._surplus)

        if self._tls is None:
            return await loop.create_server(protocol, sock=listening, backlog=BACKLOG)
        most = limits.max_connections + limits.max_surplus_connections
        return TlsListener(
            listening,
            self._tls,
            protocol,
            lambda handshakes: self.connections + handshakes < most,
            handshake_s=limits.head_timeout_s,
            backlog=BACKLOG,
        )

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._limits.tick_s)
            self._set_date()
            now = loop.time()
            for connection in list(self._state.connections):
                connection.expire(now)  # type: ignore[union-attr]

    def _set_date(self) -> None:
        self._state.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]


def _bound_unsent(listening: socket.socket) -> None:
    """Have the kernel hold little of what a client does not read; accepted sockets inherit this."""
    if sys.platform == "linux" and listening.family in (socket.AF_INET, socket.AF_INET6):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _allow_open_files(needed: int) -> None:
    """Raise this process's limit on open files as far as is needed and allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        log.warning("few_open_files", allowed=allowed, needed=needed, setting="max_connections")
