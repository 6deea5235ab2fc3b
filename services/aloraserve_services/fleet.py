"""The Serve application: one gateway in front of the engines."""

from __future__ import annotations

from typing import Any

from aloraserve_services.gateway.deployment import ENGINE, Gateway
from aloraserve_services.gateway.ranked_router import RankedRequestRouter
from aloraserve_services.models.hardware import is_cpu_engine
from aloraserve_services.plan import FleetPlan

APP = "aloraserve"
GATEWAY = "gateway"
SIMULATED_CPUS = 0.1
WAITING_ROOM = 4
"""How many times its running requests an engine replica takes in; the rest wait in the gateway."""


def build_app(plan: FleetPlan) -> Any:
    """Return the application to run with ``serve.run(..., name=APP)``.

    Args:
        plan: the fleet's, with a Redis URL.
    """
    from ray import serve
    from ray.serve.config import RequestRouterConfig

    engines = serve.deployment(
        _replica_class(plan),
        name=ENGINE,
        num_replicas=plan.settings.replicas,
        max_ongoing_requests=WAITING_ROOM * plan.max_requests,
        max_queued_requests=plan.settings.max_queued,
        ray_actor_options=engine_resources(plan),
        request_router_config=RequestRouterConfig(request_router_class=RankedRequestRouter),
        health_check_period_s=2,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=10,
    ).bind(plan)
    # More than the engines take in and the waiting room holds, so that the refusal is the gateway's own.
    room = plan.settings.replicas * WAITING_ROOM * plan.max_requests + plan.settings.max_queued + 64
    return serve.deployment(
        serve.ingress()(Gateway),
        name=GATEWAY,
        num_replicas=1,
        max_ongoing_requests=room,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=10,
    ).bind(plan, engines)


def _replica_class(plan: FleetPlan) -> type:
    from aloraserve_services.engine.replica import EngineReplica
    from aloraserve_services.engine.simulated.replica import SimulatedEngineReplica

    return EngineReplica if plan.calibration is None else SimulatedEngineReplica


def engine_resources(plan: FleetPlan) -> dict[str, Any]:
    """Return what Ray sets aside for one engine replica."""
    if plan.calibration is not None:
        return {"num_cpus": SIMULATED_CPUS}
    return {"num_cpus": 1} if is_cpu_engine() else {"num_cpus": 1, "num_gpus": 1}
