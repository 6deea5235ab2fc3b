"""Serve's policy of the engine deployment: it hands over what Serve knows and returns what was decided.

Serve copies this module into its controller; what it imports comes from the controller's own installation. An error
here would stop the scaling of every application there, so none leaves, and no I/O is done.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

LOG_EVERY_S = 60.0


class EnginePolicy:
    """Wants as many engines as were decided (:mod:`aloraserve_services.autoscaler.engine_scaling`).

    Args:
        rules: :class:`~aloraserve.scaling.base.ScalingRules` as plain values: Serve shows and logs them.
    """

    def __init__(self, rules: dict[str, Any]) -> None:
        self._rules = rules
        self._scaling: Any = None
        self._logged_at = 0.0

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Return how many engines are wanted, and nothing to be kept.

        Args:
            context: Serve's ``AutoscalingContext`` of the deployment.
        """
        try:
            return self._wanted(context), {}
        except Exception as error:  # noqa: BLE001
            # A second one has nowhere to go.
            with contextlib.suppress(Exception):
                self._log(error)
            return int(context.target_num_replicas), {}

    def _wanted(self, context: Any) -> int:
        if self._scaling is None:
            from aloraserve_services.autoscaler.engine_scaling import begin

            self._scaling = begin(context, self._rules)
        return int(self._scaling.target(context))

    def _log(self, error: Exception) -> None:
        now = time.monotonic()
        if self._logged_at and now - self._logged_at < LOG_EVERY_S:
            return
        self._logged_at = now
        from aloraserve_services.autoscaler.controller_log import controller_log

        controller_log().error("engines_not_scaled", cause=type(error).__name__, exc_info=error)
