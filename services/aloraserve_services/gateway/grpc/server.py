"""A gateway's gRPC server on its machine's port: started, drained."""

from __future__ import annotations

import asyncio

from aloraserve.settings import Settings
from aloraserve_services.gateway.grpc.edge import GrpcEdge
from aloraserve_services.grpc_server.limits import GrpcLimits
from aloraserve_services.grpc_server.server import GrpcServer
from aloraserve_services.http_server.listening import SharedPort
from aloraserve_services.http_server.tls_files import TlsFiles

LOOK_EVERY_S = 0.5
"""At the clients that do not read."""
LOCKS = "ports"
"""Subfolder of the state folder with the locks of shared ports."""


class GatewayGrpcServer:
    """See the module's docstring.

    Args:
        settings: of the platform; they have a ``grpc_port``.
        edge: answers its calls.
        max_message_bytes: of a request.
    """

    def __init__(self, settings: Settings, edge: GrpcEdge, max_message_bytes: int) -> None:
        self._settings = settings
        self._edge = edge
        self._server = GrpcServer([edge], _limits(settings, max_message_bytes))
        self._port: SharedPort | None = None
        self._looking: asyncio.Task[None] | None = None

    async def start(self, fleet: str, tls: TlsFiles | None) -> None:
        """Listen and serve.

        Args:
            fleet: what the gateways that may share the port have in common.
            tls: certificates, None without TLS.

        Raises:
            StartError: the port is another server's.
        """
        settings, port = self._settings, self._settings.grpc_port or 0
        # gRPC binds by itself. Its port is kept by a socket that does not listen, which finds out whose it is.
        self._port = SharedPort(
            settings.host, port, fleet, settings.state_dir / LOCKS, setting="grpc_port", is_listening=False
        )
        await self._server.start(settings.host, port, tls)
        self._looking = asyncio.create_task(self._look(), name="grpc_server")

    def stop_accepting(self) -> None:
        """Take neither connections nor calls any more; clients go elsewhere, calls in progress go on."""
        self._server.stop_accepting(self._settings.drain_s)
        if self._port is not None:
            self._port.release()
            self._port.socket.close()

    async def close(self) -> None:
        """End what is still being answered, and every connection."""
        if self._looking is not None:
            self._looking.cancel()
        self._edge.cut_off()
        await self._server.close()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self._edge.expire()


def _limits(settings: Settings, max_message_bytes: int) -> GrpcLimits:
    return GrpcLimits(
        max_message_bytes=max_message_bytes,
        max_connections=settings.max_connections,
        max_calls=settings.max_connections,
        max_streams=settings.grpc_max_streams,
        handshake_s=settings.head_timeout_s,
        keepalive_s=settings.grpc_keepalive_s,
        max_age_s=settings.grpc_max_connection_age_s,
    )
