"""A Ray cluster of several raylets on this machine, and the platform on it."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from typing import Any

OBJECT_STORE_BYTES = 80 << 20
VARIABLES = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_agent_register_timeout_ms": "120000",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "HF_HUB_OFFLINE": "1",
}


@contextlib.contextmanager
def served_on_nodes(arguments: dict[str, Any], nodes: int, cpus: float) -> Iterator[None]:
    """Run the platform on a head and so many further nodes, for the time of the context.

    Args:
        arguments: of the application.
        nodes: besides the head, which has no CPUs: engines are on these.
        cpus: of each.
    """
    # Ray reads the environment when it is imported.
    os.environ.update({**VARIABLES, "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    from aloraserve_services.app import APP, build

    common = {"object_store_memory": OBJECT_STORE_BYTES}
    with tempfile.TemporaryDirectory(prefix="alora-ray-") as folder:
        cluster = Cluster()
        try:
            cluster.add_node(num_cpus=0, temp_dir=folder, include_dashboard=False, **common)
            for _ in range(nodes):
                cluster.add_node(num_cpus=cpus, **common)
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            serve.start(proxy_location="Disabled")
            serve.run(build(arguments), name=APP, route_prefix=None)
            yield
        finally:
            with contextlib.suppress(Exception):
                serve.shutdown()
            ray.shutdown()
            cluster.shutdown()


def engine_replicas() -> list[str]:
    """Return the states of the engine's replicas, as Serve counts them."""
    from ray import serve

    from aloraserve_services.app import APP
    from aloraserve_services.gateway.deployment import ENGINE

    application = serve.status().applications[APP]
    states = application.deployments[ENGINE].replica_states
    return [str(getattr(state, "value", state)) for state, count in states.items() for _ in range(count)]
