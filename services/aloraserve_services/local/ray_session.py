"""A local Ray for the time of a context, which leaves neither processes nor files behind."""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aloraserve.errors import StartError
from aloraserve_services.local.private_folder import private_folder
from aloraserve_services.local.processes import end_descendants, signals_ignored
from aloraserve_services.plan import FleetPlan

OBJECT_STORE_BYTES = 128 << 20
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_SERVE_LOG_TO_STDERR": "0"}
SERVERS = ("gcs_server", "raylet")
"""Ray's own processes without which nothing goes on."""
SIMULATED_ENVIRONMENT = {
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
}
"""Serve's threads keep it alive beside code that blocks. Simulated engines do not block, and without the hops between
threads a call takes a fifth less CPU."""


@contextlib.contextmanager
def ray_session(plan: FleetPlan) -> Iterator[None]:
    """Run Ray for the time of the context.

    Args:
        plan: of the fleet that Ray will run.

    Raises:
        StartError: Ray does not start.
    """
    # Ray reads these when it is imported.
    os.environ.update(ENVIRONMENT)
    if plan.calibration is not None:
        os.environ.update(SIMULATED_ENVIRONMENT)
    import ray

    with private_folder("ray") as folder:
        # What replicas put into temporary files goes with this folder, also when they are killed.
        os.environ["TMPDIR"] = str(folder)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            _start(folder, num_cpus=_cpus(plan), _temp_dir=str(folder))
            # Ray puts a handler of its own in the place of ours.
            for number, handler in handlers.items():
                signal.signal(number, handler)
            yield
        finally:
            with signals_ignored(), contextlib.suppress(Exception):
                ray.shutdown()
            with signals_ignored():
                end_descendants()


def lost_part() -> str | None:
    """Return which of Ray's servers has ended, None while all of them run."""
    from ray._private.worker import _global_node

    ended = () if _global_node is None else _global_node.dead_processes()
    return next((f"Ray's {kind}" for kind, _ in ended if kind in SERVERS), None)


def _cpus(plan: FleetPlan) -> int:
    """Return how many CPUs Ray counts: it starts as many workers beforehand."""
    from aloraserve_services.app import engine_resources

    return 1 + math.ceil(plan.settings.replicas * engine_resources(plan.settings)["num_cpus"])


def _start(folder: Path, **options: Any) -> None:
    import ray
    from ray.exceptions import RayError

    try:
        # Workers find modules in the folder that Ray is started in: one called redis, say, in the place of the library.
        with contextlib.chdir(folder):
            ray.init(
                address="local",
                # Ray's own servers authenticate nobody: they listen on the loopback address alone.
                _node_ip_address="127.0.0.1",
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                object_store_memory=OBJECT_STORE_BYTES,
                **options,
            )
    except (RayError, RuntimeError, ConnectionError, OSError, ValueError) as error:
        raise StartError(f"Ray does not start: {str(error)[:500]}") from None
