"""A gateway's HTTP server on its machine's port: started, checked, drained."""

from __future__ import annotations

import structlog
from starlette.types import ASGIApp

from aloraserve.errors import StartError
from aloraserve.settings import Settings
from aloraserve_services.gateway.call_slots import CallSlots
from aloraserve_services.http_server.limits import HttpLimits
from aloraserve_services.http_server.listening import SharedPort
from aloraserve_services.http_server.server import HttpServer
from aloraserve_services.http_server.tls import tls_of

LOCKS = "ports"
"""Subfolder of the state folder with the locks of shared ports."""
log = structlog.get_logger(__name__)


class GatewayServer:
    """See the module's docstring.

    Args:
        settings: of the platform.
        app: the gateway's HTTP application.
        slots: of its calls in progress.
    """

    def __init__(self, settings: Settings, app: ASGIApp, slots: CallSlots) -> None:
        self._settings = settings
        self._slots = slots
        self._server = HttpServer(app, _limits(settings), tls_of(settings))
        self._port: SharedPort | None = None

    async def start(self) -> None:
        """Listen and serve.

        Raises:
            StartError: the port is another server's, or Serve's proxies have it.
        """
        settings = self._settings
        await refuse_proxies(settings.port)
        self._port = SharedPort(settings.host, settings.port, _fleet(settings), settings.state_dir / LOCKS)
        await self._server.start(self._port.socket)

    def check(self) -> None:
        """Raise if the server has ended."""
        self._server.check()

    async def stop(self) -> None:
        """Take neither connections nor calls any more; return once the last answer is sent, or the time is over.

        Probes and refused calls are answered on open connections until then. What is left in the end is cut off.
        """
        self._server.stop_accepting()
        if self._port is not None:
            self._port.release()
        left = await self._slots.drain(self._settings.drain_s)
        if left:
            log.warning("drain_cut_short", calls=left, after_s=self._settings.drain_s)
        await self._server.close()


def _limits(settings: Settings) -> HttpLimits:
    return HttpLimits(
        max_connections=settings.max_connections,
        head_timeout_s=settings.head_timeout_s,
        keep_alive_s=settings.keep_alive_s,
        stall_timeout_s=settings.stall_timeout_s,
    )


def _fleet(settings: Settings) -> str:
    """Return what only gateways of this application in this Ray cluster have in common."""
    import ray
    from ray import serve

    app = serve.get_replica_context().app_name
    return f"{ray.get_runtime_context().gcs_address}/{app}/{settings.namespace}"


async def refuse_proxies(port: int) -> None:
    """Raise StartError if Serve's proxies listen on this port: they would take a part of the connections unnoticed."""
    from ray import serve
    from ray.serve.config import ProxyLocation

    client = serve.context._get_global_client()
    location = await client._controller.get_proxy_location.remote()
    if location not in (None, ProxyLocation.Disabled) and client.http_config.port == port:
        raise StartError(
            f"port {port} is that of Serve's proxies: set proxy_location: Disabled in the Serve config, or another "
            "http_options.port"
        )
