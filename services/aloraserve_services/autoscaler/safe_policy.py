"""A policy for Serve's controller that never raises: an error would stop the scaling of every application there."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from typing import Any

LOG_EVERY_S = 60.0


class SafePolicy(ABC):
    """Answers as :meth:`wanted` does; where that fails, what Serve has stays.

    Serve asks ten times per second: a fault is logged once a minute.
    """

    fault: str
    """Name of the event that is logged when it fails."""
    least = 0
    """Replicas that there are to be whatever fails."""

    def __init__(self) -> None:
        self._last = self.least
        self._logged_at: float | None = None

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Return how many replicas are wanted, and nothing to be kept.

        Args:
            context: Serve's ``AutoscalingContext`` of the deployment.
        """
        try:
            self._last = max(self.wanted(context), self.least)
        except Exception as error:  # noqa: BLE001
            self.log(error)
            # Without Serve's target, what was wanted last.
            with contextlib.suppress(Exception):
                self._last = max(int(context.target_num_replicas), self.least)
        return self._last, {}

    @abstractmethod
    def wanted(self, context: Any) -> int:
        """Return how many replicas are wanted, without I/O.

        Args:
            context: Serve's ``AutoscalingContext`` of the deployment.
        """

    def log(self, error: Exception) -> None:
        """Log a fault, unless one was logged lately; may be called from any thread."""
        now = time.monotonic()
        if self._logged_at is not None and now - self._logged_at < LOG_EVERY_S:
            return
        self._logged_at = now
        # What fails here has nowhere to go.
        with contextlib.suppress(Exception):
            from aloraserve_services.autoscaler.controller_log import controller_log

            controller_log().error(self.fault, cause=type(error).__name__, exc_info=error)
