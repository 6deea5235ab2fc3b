"""The server: its port, its handlers, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc

from aloraserve.errors import StartError
from aloraserve_services.grpc_server.credentials import server_credentials
from aloraserve_services.grpc_server.limits import GrpcLimits
from aloraserve_services.http_server.tls_files import TlsFiles

END_S = 1.0
"""For calls that were ended to say so to their clients."""


class GrpcServer:
    """Serves handlers on a port, in the running event loop.

    Args:
        handlers: of all methods.
        limits: of its connections.
    """

    def __init__(self, handlers: Sequence[Any], limits: GrpcLimits) -> None:
        self._handlers = tuple(handlers)
        self._limits = limits
        self._server: Any = None
        self._stopping: asyncio.Task[Any] | None = None

    async def start(self, host: str, port: int, tls: TlsFiles | None = None) -> int:
        """Listen and serve; return the port.

        Args:
            host: an IP address, or ``localhost``.
            port: that others who listen on it share; 0 takes a free one.
            tls: its certificates, None without TLS.

        Raises:
            StartError: nobody can listen there.
        """
        self._server = grpc.aio.server(options=self._limits.options(), maximum_concurrent_rpcs=self._limits.max_calls)
        self._server.add_generic_rpc_handlers(self._handlers)
        address = f"{_target(host)}:{port}"
        try:
            if tls is None:
                bound = self._server.add_insecure_port(address)
            else:
                bound = self._server.add_secure_port(address, server_credentials(tls))
        except RuntimeError:
            raise StartError(f"gRPC cannot listen on port {port} of {host}") from None
        await self._server.start()
        return int(bound)

    def stop_accepting(self, grace_s: float) -> None:
        """Take neither connections nor calls any more; those in progress go on.

        Args:
            grace_s: after which they are cancelled.
        """
        if self._server is not None:
            self._stopping = asyncio.create_task(self._server.stop(grace_s + END_S), name="grpc_stop")

    async def close(self) -> None:
        """Close every connection; calls that are left are cancelled a moment later."""
        if self._server is not None:
            await self._server.stop(END_S)
            await asyncio.gather(*filter(None, [self._stopping]))


def _target(host: str) -> str:
    address = "127.0.0.1" if host == "localhost" else host
    return f"ipv6:[{address}]" if ":" in address else address
