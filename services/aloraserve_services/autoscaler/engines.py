"""Serve's policy of the engine deployment: it hands over what Serve knows and returns what was decided.

Serve copies this module into its controller; what it imports comes from the controller's own installation. Serve's loop
calls it, so that it does no I/O there: modules are imported, addresses opened and settings read in a thread.
"""

from __future__ import annotations

import math
import threading
import time
from typing import Any

from aloraserve_services.autoscaler.safe_policy import SafePolicy

BEGIN_EVERY_S = 5.0
"""Least time between two attempts to begin."""


class EnginePolicy(SafePolicy):
    """Wants as many engines as were decided (:mod:`aloraserve_services.autoscaler.engine_scaling`).

    Until the first decision, and where there is none, what Serve has stays.

    Args:
        rules: :class:`~aloraserve.scaling.base.ScalingRules` as plain values: Serve shows and logs them.
    """

    fault = "engines_not_scaled"

    def __init__(self, rules: dict[str, Any]) -> None:
        super().__init__()
        self._rules = rules
        self._scaling: Any = None
        self._starter: threading.Thread | None = None
        self._began_at = -math.inf

    def wanted(self, context: Any) -> int:
        """See :class:`SafePolicy`."""
        scaling = self._scaling
        # It ends by itself where Serve has not asked for long.
        if scaling is None or scaling.is_over:
            self._begin_beside(context)
            return int(context.target_num_replicas)
        return int(scaling.target(context))

    def _begin_beside(self, context: Any) -> None:
        """Begin in a thread, one at a time."""
        now = time.monotonic()
        is_starting = self._starter is not None and self._starter.is_alive()
        if is_starting or now - self._began_at < BEGIN_EVERY_S:
            return
        self._began_at = now
        self._starter = threading.Thread(target=self._begin, args=(context,), name="engine-scaling-start", daemon=True)
        self._starter.start()

    def _begin(self, context: Any) -> None:
        try:
            from aloraserve_services.autoscaler.engine_scaling import begin

            self._scaling = begin(context, self._rules)
        except Exception as error:  # noqa: BLE001
            self.log(error)
