"""Metrics endpoints in this process's memory: for tests and a platform that is one process."""

from __future__ import annotations

import time
from collections.abc import Callable

from aloraserve.telemetry.endpoints import ENDPOINT_TTL_S, MAX_ENDPOINTS, MetricsEndpoint, check_endpoint


class MemoryEndpoints:
    """See :class:`~aloraserve.telemetry.endpoints.EndpointRegistry`; never unavailable. For one event loop.

    Args:
        max_endpoints: the most that are listed.
        clock: seconds that never go back.
    """

    def __init__(self, *, max_endpoints: int = MAX_ENDPOINTS, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_endpoints = max_endpoints
        self._clock = clock
        self._listed: dict[tuple[str, str], tuple[MetricsEndpoint, float]] = {}

    async def register_endpoint(self, endpoint: MetricsEndpoint, *, ttl_s: float = ENDPOINT_TTL_S) -> None:
        check_endpoint(endpoint)
        listed = len(await self.endpoints())
        key = (endpoint.role, endpoint.name)
        if key in self._listed or listed < self._max_endpoints:
            self._listed[key] = (endpoint, self._clock() + ttl_s)

    async def endpoints(self) -> list[MetricsEndpoint]:
        now = self._clock()
        self._listed = {key: entry for key, entry in self._listed.items() if entry[1] > now}
        return sorted(endpoint for endpoint, _ in self._listed.values())

    async def close(self) -> None:
        return None
