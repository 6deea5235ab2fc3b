"""Replicas in a local Ray, and Serve's handle of them, for tests of the pool over it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

from aloraserve.serving.engine_messages import EngineCall, EngineReply
from support.pool_replica import CAPACITY, PoolReplica

MAX_QUEUED = 2
DEPLOYMENT = "engine"
APP = "pool"


class ServedReplica:
    """A replica as Serve starts it."""

    async def __init__(self, folder: str) -> None:  # type: ignore[misc]  # Serve awaits it
        from ray import serve

        self._replica = PoolReplica(serve.get_replica_context().replica_id.unique_id, Path(folder))
        await self._replica.start()

    async def generate(self, call: EngineCall) -> AsyncIterator[EngineReply]:
        """Return the replies."""
        return self._replica.generate(call)

    async def name(self, rank: Sequence[str] = ()) -> str:
        """Return this replica's id."""
        return self._replica.name


@contextlib.contextmanager
def serve_fleet(folder: Path, replicas: int) -> Iterator[Any]:
    """Run replicas in a Ray of their own; return Serve's handle."""
    import ray
    from ray import serve
    from ray.serve.config import RequestRouterConfig

    from aloraserve_services.gateway.ranked_router import RankedRequestRouter

    tests = str(Path(__file__).parents[1])
    path = os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])
    ray.init(
        address="local",
        num_cpus=replicas + 1,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=128 << 20,
        runtime_env={"env_vars": {"PYTHONPATH": path}},
    )
    try:
        serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
        yield serve.run(
            serve.deployment(
                ServedReplica,
                name=DEPLOYMENT,
                num_replicas=replicas,
                max_ongoing_requests=CAPACITY,
                max_queued_requests=MAX_QUEUED,
                ray_actor_options={"num_cpus": 0},
                request_router_config=RequestRouterConfig(request_router_class=RankedRequestRouter),
            ).bind(str(folder)),
            name=APP,
            route_prefix=None,
        )
    finally:
        serve.shutdown()
        ray.shutdown()
