"""The Serve application on a running Ray: deployed, and waited for until every replica takes calls."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import Any

import structlog

from aloraserve.errors import StartError
from aloraserve.settings import Settings
from aloraserve_services.local.address import base_url
from aloraserve_services.plan import FleetPlan

Progress = Callable[[str], None]
POLL_S = 0.25
ANSWER_S = 5.0
"""How long a gateway may take to answer, beside what it was asked to wait for."""
log = structlog.get_logger(__name__)


def deploy(plan: FleetPlan, progress: Progress) -> None:
    """Run the application; return once every replica takes calls.

    Args:
        plan: of the fleet, with a Redis URL.
        progress: called with what happens, in short sentences.

    Raises:
        StartError: a part does not start in time.
    """
    from ray import serve

    from aloraserve_services.app import APP, build

    # Serve sets its level when it is imported.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    settings = plan.settings
    # Gateways have servers of their own.
    serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
    serve.run_many(
        [serve.RunTarget(target=build(settings.to_arguments()), name=APP, route_prefix=None)],
        wait_for_ingress_deployment_creation=True,
        wait_for_applications_running=False,
    )
    gateways = f"{settings.least_gateways} gateways and " if settings.least_gateways > 1 else ""
    kind = f"simulated engine replicas ({plan.calibration.name})" if plan.calibration else "engine replicas"
    progress(f"starting {gateways}{settings.least_replicas} {kind} with {plan.served_name} in {plan.dtype}")
    _wait_until_running(APP, settings.start_timeout_s, progress)
    _wait_until_published(plan, settings.start_timeout_s)
    progress(f"ready at {base_url(settings)}")


def drain(settings: Settings) -> None:
    """Have every gateway drain; a gateway that does not answer has nothing to drain."""
    _ask_gateways("drain", settings.stop_s + ANSWER_S)


def replica_ids() -> list[str]:
    """Return the ids of the engine replicas that Serve has now; this process is connected to it."""
    from ray import serve

    from aloraserve_services.app import APP
    from aloraserve_services.gateway.deployment import ENGINE

    details = serve.context._get_global_client().get_serve_details()
    replicas = details["applications"][APP]["deployments"][ENGINE]["replicas"]
    return [replica["replica_id"] for replica in replicas]


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


def _deployments(status: Any) -> dict[str, Any]:
    return getattr(status, "deployments", None) or {}


def _show_replicas(status: Any, shown: int, progress: Progress) -> int:
    engine = _deployments(status).get("engine")
    running = int(engine.replica_states.get("RUNNING", 0)) if engine is not None else 0
    if running > shown:
        progress(f"{running} engine replica{'s' if running > 1 else ''} running")
    return max(running, shown)


def _why(status: Any) -> str:
    messages = [getattr(status, "message", ""), *(each.message for each in _deployments(status).values())]
    reasons = dict.fromkeys(_last_error(message) for message in messages if message)
    return "; ".join(reasons)[-2000:] or "no reason given"


def _last_error(message: str) -> str:
    """Return the error that ends a traceback, without the traceback."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", message).splitlines() if line.strip()]
    errors = [index for index, line in enumerate(lines) if re.match(r"[\w.]+(Error|Exception)\b", line)]
    return " ".join(lines[errors[-1] if errors else -3 :])


def _wait_until_published(plan: FleetPlan, timeout_s: float) -> None:
    """Wait until every gateway knows every replica, and finds each in the directory."""
    deadline, wanted = time.monotonic() + timeout_s, plan.settings
    found: list[tuple[int, int]] = []
    while time.monotonic() < deadline:
        found = [answer for answer in _ask_gateways("reachable", ANSWER_S) if isinstance(answer, tuple)]
        if len(found) >= wanted.least_gateways and min(map(min, found)) >= wanted.least_replicas:
            return
        time.sleep(POLL_S)
    least = min(map(min, found), default=0)
    raise StartError(
        f"the replicas did not appear in the directory within {timeout_s:g} s ({least} of {wanted.least_replicas})"
    )


def _ask_gateways(method: str, timeout_s: float) -> list[Any]:
    """Return what every gateway answers, or the error in its place; nothing if Serve does not reach them in time."""
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    from aloraserve_services.app import APP
    from aloraserve_services.gateway.deployment import GATEWAY

    handle = serve.get_deployment_handle(GATEWAY, APP)
    if not handle.is_initialized:
        # No event loop runs here for its router.
        handle._init(_run_router_in_separate_loop=True)
    try:
        return list(handle.broadcast(method).results(timeout_s=timeout_s, return_exceptions=True))
    except (TimeoutError, RayError, RayServeException) as error:
        log.warning("gateways_not_reached", method=method, cause=type(error).__name__)
        return []
