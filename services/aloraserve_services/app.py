"""The whole Serve application from plain arguments: for ``aloraserve up``, ``serve deploy`` and a RayService alike.

Only the settings travel. Each gateway and each engine replica finds the model and the adapters on its own machine and
works out the plan there, so that a node needs nothing from the machine that deployed it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aloraserve.errors import SettingsError
from aloraserve.settings import Settings, settings_from_arguments
from aloraserve_services.autoscaler.engines import EnginePolicy
from aloraserve_services.autoscaler.gateways import GatewayPolicy
from aloraserve_services.gateway.deployment import ENGINE, GATEWAY
from aloraserve_services.gateway.gateway_replica import GatewayReplica
from aloraserve_services.gateway.ranked_router import RankedRequestRouter
from aloraserve_services.models.hardware import preferred_dtype, runs_on_cpu
from aloraserve_services.plan import WAITING_ROOM, check_engine

APP = "aloraserve"
CONFIG = "config"
CONFIG_VARIABLE = "ALORASERVE_CONFIG"
SERVE_HOST = "0.0.0.0"  # noqa: S104
"""The address that a deployed application listens on if its arguments do not say otherwise."""
SIMULATED_CPUS = 0.1
STOP_AFTER_DRAIN_S = 10
"""What a process has for its end after its last answer, before Serve kills it."""
LOOK_BACK_S = 20.0
"""Time over whose reports of gateways and replicas, one every 10 s, Serve's autoscaler takes the mean."""
MAX_ONGOING_ADMIN = 64
"""Calls that gateways take from each other; clients' come to a gateway's own server."""


def build(args: dict[str, Any]) -> Any:
    """Return the application, to be run by ``serve.run`` or named as ``import_path`` in a Serve config.

    Args:
        args: settings by their keys, as in ``docs/reference/configuration.md``, and ``config``: a file of settings on
            the machine that builds, which they win over.

    Raises:
        SettingsError: an argument is unknown or its value is not accepted, or there is no Redis; names the key.
    """
    settings = application_settings(args)
    most_requests = _max_requests(settings)
    from ray import serve

    # No ingress: each gateway has a server of its own, which Serve's proxies know nothing of.
    return serve.deployment(
        GatewayReplica,
        name=GATEWAY,
        **_gateway_count(settings),
        max_surge_percent=100,
        max_ongoing_requests=MAX_ONGOING_ADMIN,
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=2,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=settings.stop_s + STOP_AFTER_DRAIN_S,
    ).bind(settings.for_gateways(), _engines(settings.for_engines(), most_requests))


def application_settings(args: Mapping[str, Any]) -> Settings:
    """Return the settings of an application with what all its processes must agree on decided.

    Args:
        args: see :func:`build`.

    Raises:
        SettingsError: see :func:`build`.
    """
    given = {key: value for key, value in args.items() if value is not None}
    file = given.pop(CONFIG, None) or os.environ.get(CONFIG_VARIABLE)
    settings = settings_from_arguments(given, Path(file) if file else None, defaults={"host": SERVE_HOST})
    if settings.redis_url is None:
        raise SettingsError("redis_url is not set; gateways and engine replicas need a Redis that all of them reach")
    dtype = preferred_dtype(device=settings.device) if settings.dtype == "auto" else settings.dtype
    return settings.model_copy(update={"dtype": dtype})


def engine_resources(settings: Settings) -> dict[str, Any]:
    """Return what Ray sets aside for one engine replica."""
    if settings.engine == "simulated":
        return {"num_cpus": SIMULATED_CPUS}
    return {"num_cpus": 1} if runs_on_cpu(settings.device) else {"num_cpus": 1, "num_gpus": settings.gpus_per_engine}


def _engine_count(settings: Settings, max_requests: int) -> dict[str, Any]:
    """Return Serve's options of how many engines there are.

    The policy has its own delays, so that Serve's are 0; with ``initial_replicas`` each change of the settings would
    begin there again. The arguments of a policy are shown by Serve: no secret may be in them.
    """
    if not settings.autoscaling:
        return {"num_replicas": settings.replicas}
    policy = {
        "policy_function": f"{EnginePolicy.__module__}:{EnginePolicy.__qualname__}",
        "policy_kwargs": {"rules": asdict(settings.scaling_rules(max_requests))},
    }
    scaling = {
        "min_replicas": settings.min_replicas,
        "max_replicas": settings.max_replicas,
        "target_ongoing_requests": max_requests,
        "upscale_delay_s": 0,
        "downscale_delay_s": 0,
        "downscale_to_zero_delay_s": 0,
        "look_back_period_s": LOOK_BACK_S,
        "policy": policy,
    }
    return {"autoscaling_config": scaling}


def _gateway_count(settings: Settings) -> dict[str, Any]:
    """Return Serve's options of how many gateways there are."""
    if not settings.autoscaling:
        return {"num_replicas": settings.gateways}
    # Without initial_replicas: with it each change of the settings would begin there again.
    scaling = {
        "min_replicas": settings.min_gateways,
        "max_replicas": settings.max_gateways,
        "target_ongoing_requests": settings.calls_per_gateway,
        "upscale_delay_s": settings.scale_up_cooldown_s,
        "downscale_delay_s": settings.scale_down_cooldown_s,
        "look_back_period_s": LOOK_BACK_S,
        "policy": {"policy_function": f"{GatewayPolicy.__module__}:{GatewayPolicy.__qualname__}"},
    }
    return {"autoscaling_config": scaling}


def _max_requests(settings: Settings) -> int:
    simulated = check_engine(settings)
    return settings.max_num_seqs if simulated is None else simulated.max_num_seqs


def _engines(settings: Settings, max_requests: int) -> Any:
    from ray import serve
    from ray.serve.config import RequestRouterConfig

    return serve.deployment(
        _replica_class(settings),
        name=ENGINE,
        **_engine_count(settings, max_requests),
        max_surge_percent=settings.max_surge_percent,
        max_ongoing_requests=WAITING_ROOM * max_requests,
        max_queued_requests=settings.max_queued,
        ray_actor_options=engine_resources(settings),
        request_router_config=RequestRouterConfig(request_router_class=RankedRequestRouter),
        health_check_period_s=2,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=settings.drain_s + STOP_AFTER_DRAIN_S,
    ).bind(settings)


def _replica_class(settings: Settings) -> type:
    from aloraserve_services.engine.replica import EngineReplica
    from aloraserve_services.engine.simulated.simulated_replica import SimulatedEngineReplica

    return SimulatedEngineReplica if settings.engine == "simulated" else EngineReplica
