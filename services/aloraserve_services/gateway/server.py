"""A gateway's HTTP server, and with it the gRPC one, on its machine's ports: started, checked, drained."""

from __future__ import annotations

import asyncio
import contextlib

import structlog
from starlette.types import ASGIApp

from aloraserve.errors import StartError
from aloraserve.settings import Settings
from aloraserve_services.gateway.call_slots import CallSlots
from aloraserve_services.gateway.grpc.server import LOCKS, GatewayGrpcServer
from aloraserve_services.gateway.metrics import TLS_LOADED, TLS_REFUSED, GatewayMetrics
from aloraserve_services.http_server.limits import HttpLimits
from aloraserve_services.http_server.listening import SharedPort
from aloraserve_services.http_server.server import HttpServer
from aloraserve_services.http_server.tls_files import TlsFiles, TlsMaterial
from aloraserve_services.ray_authentication import warn_of_open_ray

log = structlog.get_logger(__name__)


class GatewayServer:
    """See the module's docstring.

    Args:
        settings: of the platform.
        app: the gateway's HTTP application.
        slots: of its calls in progress.
        metrics: of the gateway.
        grpc: its gRPC server, None without one.

    Attributes:
        tls: files that its connections are encrypted with, followed while it runs; None without TLS.

    Raises:
        SettingsError: those files cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        app: ASGIApp,
        slots: CallSlots,
        metrics: GatewayMetrics,
        grpc: GatewayGrpcServer | None = None,
    ) -> None:
        self._settings = settings
        self._grpc = grpc
        self._slots = slots
        self._metrics = metrics
        self.tls = TlsFiles.of(settings)
        self._server = HttpServer(app, _limits(settings), self.tls.current.context if self.tls else None)
        self._port: SharedPort | None = None
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen and serve.

        Raises:
            StartError: the port is another server's, or Serve's proxies have it.
        """
        settings = self._settings
        warn_of_open_ray()
        await refuse_proxies(settings.port)
        fleet = _fleet(settings)
        self._port = SharedPort(settings.host, settings.port, fleet, settings.state_dir / LOCKS)
        await self._server.start(self._port.socket)
        if self._grpc is not None:
            await self._grpc.start(fleet, self.tls)
        if self.tls is not None:
            self._following = asyncio.create_task(self.tls.follow(self._use, self._refused), name="tls_files")
            self._show_expiry(self.tls.current)

    def check(self) -> None:
        """Raise if the server has ended, or follows its certificate no more."""
        self._server.check()
        if self._following is not None and self._following.done():
            self._following.result()

    async def stop(self) -> None:
        """Take neither connections nor calls any more; return once the last answer is sent, or the time is over.

        For ``drain_delay_s`` before that only probes change, so that load balancers send new calls elsewhere before
        any is refused. Probes and refused calls are answered on open connections to the end, when what is left is cut.
        """
        if not self._slots.is_leaving:
            self._slots.announce()
            await asyncio.sleep(self._settings.drain_delay_s)
        await self._unfollow()
        self._server.stop_accepting()
        if self._port is not None:
            self._port.release()
        if self._grpc is not None:
            self._grpc.stop_accepting()
        left = await self._slots.drain(self._settings.drain_s)
        if left:
            log.warning("drain_cut_short", calls=left, after_s=self._settings.drain_s)
        await asyncio.gather(self._server.close(), *([] if self._grpc is None else [self._grpc.close()]))

    async def _use(self, material: TlsMaterial) -> None:
        await self._server.use_tls(material.context)
        self._metrics.tls_reloads.labels(TLS_LOADED).inc()
        self._show_expiry(material)

    def _refused(self) -> None:
        self._metrics.tls_reloads.labels(TLS_REFUSED).inc()

    def _show_expiry(self, material: TlsMaterial) -> None:
        self._metrics.tls_expiry.set(material.expires.timestamp())

    async def _unfollow(self) -> None:
        if self._following is None:
            return
        following, self._following = self._following, None
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following


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
