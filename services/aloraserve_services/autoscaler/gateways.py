"""How many gateways there are: by the calls that they have in progress.

Serve counts none of them, as each gateway has a server of its own. So the gateways report them
(``GatewayReplica.record_autoscaling_stats``), and this policy reads the reports. It runs in Serve's controller: it does
no I/O.
"""

from __future__ import annotations

import math
from typing import Any

from aloraserve_services.autoscaler.safe_policy import SafePolicy

CALLS = "calls"
"""Name of what gateways report."""


class GatewayPolicy(SafePolicy):
    """Wants a gateway for each ``target_ongoing_requests`` calls; Serve adds bounds and delays."""

    fault = "gateways_not_scaled"
    least = 1

    def wanted(self, context: Any) -> int:
        """See :class:`SafePolicy`."""
        return wanted_gateways(context)


def wanted_gateways(context: Any) -> int:
    """Return a gateway for each so many calls; as many as there are while none has reported."""
    reported = (context.aggregated_metrics or {}).get(CALLS, {})
    if not reported:
        return int(context.target_num_replicas)
    # One that has just started, or does not report, is taken to have as many as the others.
    calls = sum(reported.values()) * max(context.current_num_replicas, 1) / len(reported)
    return math.ceil(calls / context.config.target_ongoing_requests)
