"""How many gateways there are: by the calls that they have in progress.

Serve counts none of them, as each gateway has a server of its own. So the gateways report them
(``GatewayReplica.record_autoscaling_stats``), and this policy reads the reports. It runs in Serve's controller: it does
no I/O, and an error of its own would stop the scaling of every application there, so it raises none.
"""

from __future__ import annotations

import math
from typing import Any

import structlog

CALLS = "calls"
"""Name of what gateways report."""

log = structlog.get_logger(__name__)


class GatewayPolicy:
    """Wants a gateway for each ``target_ongoing_requests`` calls; Serve adds bounds and delays."""

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Return how many gateways are wanted, and nothing to be kept.

        Args:
            context: Serve's ``AutoscalingContext`` of the deployment.
        """
        try:
            return max(1, wanted_gateways(context)), {}
        except Exception as error:
            log.error("gateways_not_scaled", cause=type(error).__name__, exc_info=error)
            return max(1, context.target_num_replicas), {}


def wanted_gateways(context: Any) -> int:
    """Return a gateway for each so many calls; as many as there are while none has reported."""
    reported = (context.aggregated_metrics or {}).get(CALLS, {})
    if not reported:
        return int(context.target_num_replicas)
    # One that has just started, or does not report, is taken to have as many as the others.
    calls = sum(reported.values()) * max(context.current_num_replicas, 1) / len(reported)
    return math.ceil(calls / context.config.target_ongoing_requests)
