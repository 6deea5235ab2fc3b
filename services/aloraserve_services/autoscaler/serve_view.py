"""What Serve knows of the engines' deployment, from the context of its policy."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aloraserve.settings import Settings
from aloraserve_services.autoscaler.running_gateways import running_gateways

REQUESTS = "requests"
"""What replicas report to Serve (``EngineReplica.record_autoscaling_stats``): the requests that they have."""


@dataclass(frozen=True, slots=True)
class ServeView:
    """The deployment as Serve last saw it.

    Args:
        at: on this process's monotonic clock.
        running: Serve's ids of the running replicas, by the fleet's.
        target: that Serve has now.
        ongoing: requests that replicas reported, and that wait at Serve's handles; None if nobody has reported.
        least: replicas, as Serve has it now: an incremental upgrade moves both bounds. None: the rules' own.
        most: likewise.
        gateways: that run; None: unknown.
    """

    at: float
    running: Mapping[str, Any]
    target: int
    ongoing: int | None = None
    least: int | None = None
    most: int | None = None
    gateways: int | None = None


def serve_view(context: Any, ongoing: int | None) -> ServeView:
    """Return what an ``AutoscalingContext`` says."""
    return ServeView(
        time.monotonic(),
        {replica.unique_id: replica for replica in context.running_replicas},
        context.target_num_replicas,
        ongoing,
        getattr(context, "capacity_adjusted_min_replicas", None),
        getattr(context, "capacity_adjusted_max_replicas", None),
        running_gateways(context),
    )


def ongoing_requests(context: Any) -> int | None:
    """Return the requests in the fleet without asking the directory; None if that is not known.

    Serve counts what passes through its handles, which calls do not; replicas report the others themselves.
    """
    reported = (context.aggregated_metrics or {}).get(REQUESTS, {})
    if not reported and not context.total_num_requests:
        return None
    return round(sum(reported.values()) + context.total_num_requests)


def fleet_settings(context: Any) -> Settings:
    """Return the settings that the deployment's replicas get.

    They have secrets, so they are not arguments of the policy, which Serve shows and logs. Serve has them where the
    policy runs: an attribute of a context's count of requests leads there.

    Raises:
        LookupError: they are not where they were in the Ray that this was written for.
    """
    try:
        state = context._total_num_requests_value.__self__
        [settings] = state._deployment_info.replica_config.init_args
    except (AttributeError, TypeError, ValueError) as error:
        raise LookupError(f"Serve's context has no settings: {error}") from None
    if not isinstance(settings, Settings):
        raise LookupError(f"the replicas' argument is a {type(settings).__name__}")
    return settings
