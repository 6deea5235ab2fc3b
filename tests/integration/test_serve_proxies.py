"""Serve's proxies on the gateways' port are an error: they listen with SO_REUSEPORT and would share it unnoticed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


class Listener:
    """Looks for Serve's proxies as a gateway does before it listens."""

    async def loop(self) -> str:
        """Return whose event loop this is: gateways serve HTTP in theirs."""
        return type(asyncio.get_running_loop()).__module__

    async def refused(self, port: int) -> str:
        """Return why a gateway may not listen on the port; empty if it may."""
        from aloraserve.errors import StartError
        from aloraserve_services.gateway.server import refuse_proxies

        try:
            await refuse_proxies(port)
        except StartError as error:
            return error.message
        return ""


@pytest.mark.parametrize("location", ["EveryNode", "Disabled"])
def test_proxies_are_found_where_they_are(location: str) -> None:
    import ray
    from ray import serve

    # Not for the workers, which import this module too.
    from support.redis_deployments import free_port

    proxies, free = free_port(), free_port()
    ray.init(address="local", _node_ip_address="127.0.0.1", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        options: dict[str, Any] = {"host": "127.0.0.1", "port": proxies}
        serve.start(proxy_location=location, http_options=options, logging_config={"log_level": "WARNING"})
        app = serve.deployment(Listener, ray_actor_options={"num_cpus": 0}).bind()
        handle = serve.run(app, name="listener", route_prefix=None)
        assert handle.loop.remote().result(timeout_s=30) == "uvloop"
        found = handle.refused.remote(proxies).result(timeout_s=30)
        assert ("set proxy_location: Disabled" in found) == (location != "Disabled")
        assert handle.refused.remote(free).result(timeout_s=30) == ""
    finally:
        serve.shutdown()
        ray.shutdown()
