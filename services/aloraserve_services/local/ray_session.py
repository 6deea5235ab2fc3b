"""A local Ray for the time of a context, which leaves neither processes nor files behind."""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aloraserve.errors import StartError
from aloraserve.telemetry.log_files import RAY, keep_ends
from aloraserve_services.local.processes import end_descendants, signals_ignored
from aloraserve_services.local.session_folder import SessionFolder, session_folder
from aloraserve_services.local.surroundings import changed_environment
from aloraserve_services.plan import FleetPlan
from aloraserve_services.ray_authentication import asks_for_token, authentication

OBJECT_STORE_BYTES = 128 << 20
SERVERS = ("gcs_server", "raylet")
"""Ray's own processes without which nothing goes on."""
LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray of a single machine: its servers listen on the loopback address, as they always do on Windows and macOS.
Elsewhere Ray replaces that address by the one that other machines reach."""
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_SERVE_LOG_TO_STDERR": "0"} | LOOPBACK_ONLY
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
    with session_folder() as folder, changed_environment(_variables(plan, folder)):
        # Ray reads the environment when it is imported.
        import ray

        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            _start(folder.path, num_cpus=_cpus(plan), _temp_dir=str(folder.ray))
            # Ray puts a handler of its own in the place of ours.
            for number, handler in handlers.items():
                signal.signal(number, handler)
            yield
        finally:
            with signals_ignored(), contextlib.suppress(Exception):
                ray.shutdown()
            with signals_ignored():
                end_descendants()
                _keep_logs(folder, plan.settings.log_dir)


def _keep_logs(folder: SessionFolder, log_dir: Path | None) -> None:
    """Keep what Ray and Serve wrote last, which says why a part did not start or was replaced."""
    if log_dir is not None:
        files = [path for path in folder.ray.glob("session_2*/logs/**/*") if path.is_file() and not path.is_symlink()]
        with contextlib.suppress(OSError):
            keep_ends(files, log_dir / RAY)


def lost_part() -> str | None:
    """Return which of Ray's servers has ended, None while all of them run."""
    from ray._private.worker import _global_node

    ended = () if _global_node is None else _global_node.dead_processes()
    return next((f"Ray's {kind}" for kind, _ in ended if kind in SERVERS), None)


def _variables(plan: FleetPlan, folder: SessionFolder) -> dict[str, str | None]:
    simulated = SIMULATED_ENVIRONMENT if plan.calibration is not None else {}
    # What replicas put into temporary files goes with the folder, also when they are killed.
    return {**ENVIRONMENT, **simulated, **authentication(folder.token), "TMPDIR": str(folder.temporary)}


def _cpus(plan: FleetPlan) -> int:
    """Return how many CPUs Ray counts: it starts as many workers beforehand."""
    from aloraserve_services.app import engine_resources

    return 1 + math.ceil(plan.settings.most_replicas * engine_resources(plan.settings)["num_cpus"])


def _start(folder: Path, **options: Any) -> None:
    import ray

    if not asks_for_token():
        raise StartError("Ray's servers would not ask for a token, so Ray is not started")
    try:
        # Workers find modules in the folder that Ray is started in: one called redis, say, in the place of the library.
        with contextlib.chdir(folder):
            ray.init(
                address="local",
                _node_ip_address="127.0.0.1",
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                object_store_memory=OBJECT_STORE_BYTES,
                **options,
            )
    except Exception as error:  # noqa: BLE001 - of a node that does not start in time Ray says so in one of no class
        raise StartError(f"Ray does not start: {str(error)[:500]}") from None
