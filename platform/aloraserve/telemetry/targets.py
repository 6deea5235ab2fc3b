"""Metrics endpoints as Prometheus reads them, and a process's own kept among them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any

from aloraserve.errors import DirectoryUnavailableError
from aloraserve.telemetry.endpoints import ENDPOINT_TTL_S, EndpointRegistry, MetricsEndpoint

REGISTER_EVERY_S = ENDPOINT_TTL_S / 6


async def keep_registered(
    registry: EndpointRegistry, endpoint: MetricsEndpoint, every_s: float = REGISTER_EVERY_S
) -> None:
    """Keep an endpoint listed until cancelled; a registry that is gone is asked again."""
    while True:
        with contextlib.suppress(DirectoryUnavailableError):
            await registry.register_endpoint(endpoint)
        await asyncio.sleep(every_s)


def scrape_targets(endpoints: Iterable[MetricsEndpoint]) -> list[dict[str, Any]]:
    """Return endpoints as Prometheus' ``http_sd_configs`` reads them, each address once."""
    by_address = {endpoint.address: endpoint for endpoint in endpoints}
    return [
        {"targets": [endpoint.address], "labels": {"role": endpoint.role, "process": endpoint.name}}
        for endpoint in sorted(by_address.values())
    ]
