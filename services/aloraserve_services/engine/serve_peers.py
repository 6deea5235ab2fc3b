"""The fleet's other replicas, through Serve's handle of their own deployment."""

from __future__ import annotations

import asyncio
from typing import Any

from ray import serve

from aloraserve_services.serve_requests import own_request_id

STAYING = ("RUNNING", "DEPLOYING", "UNHEALTHY")
"""States of an application that goes on."""


class ServePeers:
    """See :class:`~aloraserve_services.engine.fleet_warmth.Peers`; what travels stays within the Ray cluster."""

    async def hottest(self, replica: str) -> bytes:
        """See the contract."""
        return await self._call("hottest", replica)

    async def prefill(self, replica: str, prefixes: bytes, budget_s: float) -> int:
        """See the contract."""
        return int(await self._call("prefill", replica, prefixes, budget_s))

    async def stay(self) -> bool:
        """See the contract."""
        context = serve.get_replica_context()
        application = (await asyncio.to_thread(serve.status)).applications.get(context.app_name)
        if application is None or application.status.value not in STAYING:
            return False
        return application.deployments[context.deployment].replica_states.get("RUNNING", 0) > 0

    async def _call(self, method: str, replica: str, *arguments: Any) -> Any:
        context = serve.get_replica_context()
        handle = serve.get_deployment_handle(context.deployment, context.app_name).options(method_name=method)
        own_request_id()
        return await handle.remote(*arguments, rank=[replica])
