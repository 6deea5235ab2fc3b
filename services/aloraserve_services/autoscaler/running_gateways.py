"""How many gateways run, by application: their policy notes it in Serve's controller, the engines' scaling reads it."""

from __future__ import annotations

import time
from typing import Any

NOTED_S = 10.0
"""How long it counts; Serve asks the policy ten times per second."""

_noted: dict[str, tuple[float, int]] = {}


def note(context: Any) -> None:
    """Note the gateways of an ``AutoscalingContext``, and forget applications that are gone."""
    now = time.monotonic()
    for name in [name for name, (noted_at, _) in _noted.items() if now - noted_at > NOTED_S]:
        _noted.pop(name, None)
    _noted[str(context.app_name)] = (now, len(context.running_replicas))


def running_gateways(context: Any) -> int | None:
    """Return how many gateways the application of an ``AutoscalingContext`` has; None if that is not known."""
    noted_at, count = _noted.get(str(getattr(context, "app_name", None)), (0.0, None))
    return count if count is not None and time.monotonic() - noted_at <= NOTED_S else None
