"""The whole platform on one machine: Redis, Ray, engines and gateway, started and stopped together."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import math
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aloraserve.errors import DirectoryUnavailableError, KeySpaceMismatchError, StartError
from aloraserve.settings import Settings
from aloraserve_services.local.processes import adopt_orphans, end_descendants, signals_ignored
from aloraserve_services.local.redis_server import embedded_redis, given_redis
from aloraserve_services.models.model_files import SMOLLM2_ALIASES
from aloraserve_services.plan import FleetPlan, make_plan

Progress = Callable[[str], None]
OBJECT_STORE_BYTES = 128 << 20
POLL_S = 0.25
SIMULATED_ENVIRONMENT = {
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
}
"""Serve's threads keep it alive beside code that blocks. Simulated engines do not, and without the hops between threads
a call takes a fifth less CPU."""


def base_url(settings: Settings) -> str:
    """Return the address of the HTTP API, as this machine reaches it."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "localhost") else settings.host  # noqa: S104
    host = "::1" if host == "::" else host
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def check_port(host: str, port: int) -> None:
    """Raise StartError if something listens on the port already."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartError(
                f"port {port} on {host} cannot be used ({error.strerror}): "
                "choose another with --port or ALORASERVE_PORT"
            ) from None


@contextlib.contextmanager
def local_platform(
    settings: Settings, *, adapters_dir: Callable[[Path], Path] | None = None, progress: Progress
) -> Iterator[FleetPlan]:
    """Run the platform for the time of the context; yield its plan once every replica takes calls.

    Args:
        settings: what to run.
        adapters_dir: makes an adapters folder for the model's folder, if the settings name none.
        progress: told what happens, in short sentences.

    Raises:
        SettingsError: the model or the adapters' folder is not there.
        StartError: a port is taken, Redis does not answer, a fleet with another key space has its namespace, or a part
            does not start in time.
    """
    check_port(settings.host, settings.port)
    _quiet_libraries(settings)
    adopt_orphans()
    try:
        with contextlib.ExitStack() as stack:
            redis = given_redis(settings.redis_url, settings.namespace) if settings.redis_url else embedded_redis()
            url = stack.enter_context(redis)
            progress("Redis answers" if settings.redis_url else "embedded Redis started")
            plan = make_plan(settings, adapters_dir=adapters_dir, progress=progress)
            plan = dataclasses.replace(plan, settings=settings.model_copy(update={"redis_url": url}))
            _join_fleet(plan)
            stack.enter_context(_ray(plan, progress))
            _deploy(plan, progress)
            yield plan
    finally:
        with signals_ignored():
            end_descendants()


def _quiet_libraries(settings: Settings) -> None:
    """Set what libraries read when they are imported: no hub for a model that is here, no bars without a terminal."""
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    if settings.model.lower() in SMOLLM2_ALIASES or Path(settings.model).expanduser().exists():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


@contextlib.contextmanager
def _ray(plan: FleetPlan, progress: Progress) -> Iterator[None]:
    # Ray reads these when it is imported. A Unix socket's path is short, so the folder is not in the state folder.
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_SERVE_LOG_TO_STDERR": "0"})
    if plan.calibration is not None:
        os.environ.update(SIMULATED_ENVIRONMENT)
    import ray

    folder = tempfile.mkdtemp(prefix="alora-ray-")
    # What replicas put into temporary files goes with this folder, also when they are killed.
    os.environ["TMPDIR"] = folder
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _start_ray(
            address="local",
            # Ray's own servers ask nobody who they are: they listen on the loopback address alone.
            _node_ip_address="127.0.0.1",
            num_cpus=_cpus(plan),
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=folder,
        )
        # Ray puts a handler of its own in the place of ours.
        for number, handler in handlers.items():
            signal.signal(number, handler)
        progress("Ray started")
        yield
    finally:
        with signals_ignored(), contextlib.suppress(Exception):
            ray.shutdown()
        with signals_ignored():
            end_descendants()
        shutil.rmtree(folder, ignore_errors=True)


def _cpus(plan: FleetPlan) -> int:
    """Return how many CPUs Ray is told of: it starts as many workers beforehand."""
    from aloraserve_services.fleet import engine_resources

    return 1 + math.ceil(plan.settings.replicas * engine_resources(plan)["num_cpus"])


def _join_fleet(plan: FleetPlan) -> None:
    """Say at once, rather than from each replica, that a fleet with another key space has this namespace."""

    async def join() -> None:
        directory = plan.open_directory()
        try:
            await directory.join(plan.keyspace)
        finally:
            await directory.close()

    try:
        asyncio.run(join())
    except KeySpaceMismatchError as error:
        raise StartError(error.message) from None
    except DirectoryUnavailableError as error:
        raise StartError(f"Redis does not take this fleet: {error.message}") from None


def _start_ray(**options: Any) -> None:
    import ray
    from ray.exceptions import RayError

    try:
        ray.init(**options)
    except (RayError, RuntimeError, ConnectionError) as error:
        raise StartError(f"Ray does not start: {str(error)[:500]}") from None


def _deploy(plan: FleetPlan, progress: Progress) -> None:
    from ray import serve

    from aloraserve_services.fleet import APP, build_app

    # Serve sets its level when it is imported.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    settings = plan.settings
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": settings.host, "port": settings.port},
        logging_config={"log_level": "WARNING"},
    )
    serve.run_many(
        [serve.RunTarget(target=build_app(plan), name=APP, route_prefix="/")],
        wait_for_ingress_deployment_creation=True,
        wait_for_applications_running=False,
    )
    kind = f"simulated engine replicas ({plan.calibration.name})" if plan.calibration else "engine replicas"
    progress(f"starting {settings.replicas} {kind} with {plan.served_name} in {plan.dtype}")
    _wait_until_running(APP, settings.start_timeout_s, progress)
    _wait_until_published(plan, settings.start_timeout_s)
    progress(f"ready at {base_url(settings)}")


def _wait_until_running(app: str, timeout_s: float, progress: Progress) -> None:
    from ray import serve

    deadline, shown = time.monotonic() + timeout_s, 0
    while True:
        status = serve.status().applications.get(app)
        state = "NOT_STARTED" if status is None else str(status.status.value)
        if state == "RUNNING":
            return
        if state in ("DEPLOY_FAILED", "UNHEALTHY") or time.monotonic() > deadline:
            raise StartError(f"the platform did not start ({state} after {timeout_s:g} s at most): {_why(status)}")
        shown = _show_replicas(status, shown, progress)
        time.sleep(POLL_S)


def _show_replicas(status: Any, shown: int, progress: Progress) -> int:
    deployments = getattr(status, "deployments", None) or {}
    running = sum(int(one.replica_states.get("RUNNING", 0)) for name, one in deployments.items() if name == "engine")
    if running > shown:
        progress(f"{running} engine replica{'s' if running > 1 else ''} running")
    return max(running, shown)


def _why(status: Any) -> str:
    deployments = getattr(status, "deployments", None) or {}
    messages = [getattr(status, "message", "")] + [one.message for one in deployments.values()]
    reasons = dict.fromkeys(_last_error(message) for message in messages if message)
    return "; ".join(reasons)[-2000:] or "no reason given"


def _last_error(message: str) -> str:
    """Return the error that ends a traceback, without the traceback."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", message).splitlines() if line.strip()]
    errors = [index for index, line in enumerate(lines) if re.match(r"[\w.]+(Error|Exception)\b", line)]
    return " ".join(lines[errors[-1] if errors else -3 :])


def _wait_until_published(plan: FleetPlan, timeout_s: float) -> None:
    """Wait until HTTP answers and every replica has told the directory of itself."""
    import httpx

    deadline = time.monotonic() + timeout_s
    url, headers, last = f"{base_url(plan.settings)}/v1/replicas", authorization(plan.settings), "no answer yet"
    while time.monotonic() < deadline:
        try:
            # A proxy of the environment is for the world outside this machine.
            content = httpx.get(url, headers=headers, timeout=5, trust_env=False).json()
            if min(len(content["replicas"]), len(content["known"])) >= plan.settings.replicas:
                return
            last = f"{len(content['replicas'])} of {plan.settings.replicas}"
        except (httpx.HTTPError, ValueError, KeyError) as error:
            last = f"{type(error).__name__}: {error}"[:200]
        time.sleep(POLL_S)
    raise StartError(f"the replicas did not appear in the directory within {timeout_s:g} s ({last})")


def authorization(settings: Settings) -> dict[str, str]:
    """Return the header that the platform's own calls carry: the first tenant's key, if there are any."""
    for key in settings.api_keys.values():
        return {"Authorization": f"Bearer {key.get_secret_value()}"}
    return {}
