"""A gateway as Serve starts, calls, checks and stops it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import structlog

from aloraserve.settings import Settings
from aloraserve_services.autoscaler.gateways import CALLS
from aloraserve_services.gateway.deployment import Gateway
from aloraserve_services.gateway.server import GatewayServer
from aloraserve_services.plan import make_plan

log = structlog.get_logger(__name__)


class GatewayReplica:
    """A gateway as Serve starts it, calls it, checks it and stops it: from the settings alone.

    Clients reach its own HTTP server; Serve's calls are those of other gateways and of the command line.

    Args:
        settings: of the fleet, as :func:`aloraserve_services.app.build` decided them.
        engines: Serve's handle of the engine deployment.

    Raises:
        SettingsError: the model, the adapters or the TLS files are not on this machine.
        StartError: the packaged model cannot be converted, or the port is taken.
    """

    async def __init__(self, settings: Settings, engines: Any) -> None:  # type: ignore[misc]  # Serve awaits it
        self._closing = contextlib.AsyncExitStack()
        # The packaged model may have to be converted first.
        plan = await asyncio.to_thread(make_plan, settings, progress=log.info)
        self._gateway = Gateway(plan, engines)
        gateway = self._gateway
        self._server = GatewayServer(
            plan.settings, gateway.http_app(), gateway.slots, gateway.metrics, gateway.grpc_server()
        )
        await self._closing.enter_async_context(self._gateway.running())
        await self._server.start()
        self._closing.push_async_callback(self._server.stop)

    async def own_receipt(self, request_id: str) -> dict[str, Any] | None:
        """Return this gateway's receipt of a request; other gateways call this."""
        return await self._gateway.own_receipt(request_id)

    async def own_receipts(self, limit: int) -> list[dict[str, Any]]:
        """Return this gateway's last receipts, the newest first; other gateways call this."""
        return await self._gateway.own_receipts(limit)

    async def own_answer(self, name: str) -> dict[str, Any] | None:
        """Return what this gateway knows of an idempotency key; other gateways call this."""
        return await self._gateway.own_answer(name)

    async def own_diagnosis(self, window_s: int) -> dict[str, Any]:
        """Return what became of reuse in this gateway's calls of the last seconds; other gateways call this."""
        return await self._gateway.own_diagnosis(window_s)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the calls in progress, which Serve does not see; its autoscaler calls this."""
        return {CALLS: self._gateway.slots.taken}

    async def reachable(self) -> tuple[int, int]:
        """Return how many replicas Serve knows, and how many the directory; the command line calls this."""
        return await self._gateway.reachable()

    async def drain(self) -> None:
        """Stop the HTTP server, see :meth:`GatewayServer.stop`; the command line does so before it ends everything."""
        await self._server.stop()

    async def check_health(self) -> None:
        """Raise if the HTTP server has ended; Serve then replaces this replica."""
        self._server.check()

    async def __del__(self) -> None:
        """Drain and end, when Serve stops this replica."""
        await self._closing.aclose()
