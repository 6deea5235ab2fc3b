"""The fleet's other replicas: Serve says where their channels are, and over those they are asked."""

from __future__ import annotations

import asyncio

from ray import serve

from aloraserve_services.channel.endpoint import Endpoint
from aloraserve_services.channel.peers import ask_hottest, ask_prefill
from aloraserve_services.serve_requests import own_request_id

STAYING = ("RUNNING", "DEPLOYING", "UNHEALTHY")
"""States of an application that goes on."""


class ServePeers:
    """See :class:`~aloraserve_services.engine.fleet_warmth.Peers`; Serve carries neither prompts nor salts."""

    async def hottest(self, replica: str) -> bytes:
        """See the contract."""
        return await ask_hottest(await self._endpoint(replica))

    async def prefill(self, replica: str, prefixes: bytes, budget_s: float) -> int:
        """See the contract."""
        return await ask_prefill(await self._endpoint(replica), prefixes, budget_s)

    async def stay(self) -> bool:
        """See the contract."""
        context = serve.get_replica_context()
        application = (await asyncio.to_thread(serve.status)).applications.get(context.app_name)
        if application is None or application.status.value not in STAYING:
            return False
        return application.deployments[context.deployment].replica_states.get("RUNNING", 0) > 0

    async def _endpoint(self, replica: str) -> Endpoint:
        """Return where a replica's channel is.

        Raises:
            LookupError: another replica answered in its place.
        """
        context = serve.get_replica_context()
        handle = serve.get_deployment_handle(context.deployment, context.app_name).options(method_name="endpoint")
        own_request_id()
        endpoint = Endpoint.from_dict(await handle.remote(rank=[replica]))
        if endpoint.replica != replica:
            raise LookupError(f"{replica} did not answer; {endpoint.replica} did")
        return endpoint
