"""The list of processes that Prometheus scrapes."""

from __future__ import annotations

import asyncio

from aloraserve.errors import DirectoryUnavailableError
from aloraserve.telemetry.endpoints import MetricsEndpoint
from aloraserve.telemetry.memory_endpoints import MemoryEndpoints
from aloraserve.telemetry.targets import keep_registered, scrape_targets

ENGINE = MetricsEndpoint("engine", "engine-0", "10.0.0.1:9000")


class Late(MemoryEndpoints):
    """Is there from the third call on."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.registered = asyncio.Event()

    async def register_endpoint(self, endpoint: MetricsEndpoint, **options: float) -> None:
        self.calls += 1
        if self.calls < 3:
            raise DirectoryUnavailableError("gone")
        await super().register_endpoint(endpoint, **options)
        self.registered.set()


def test_each_address_is_a_target_once() -> None:
    gateway = MetricsEndpoint("gateway", "gateway-0", "10.0.0.1:9001")
    assert scrape_targets([gateway, ENGINE, gateway]) == [
        {"targets": ["10.0.0.1:9000"], "labels": {"role": "engine", "process": "engine-0"}},
        {"targets": ["10.0.0.1:9001"], "labels": {"role": "gateway", "process": "gateway-0"}},
    ]


async def test_a_process_is_listed_as_soon_as_the_registry_is_there() -> None:
    registry = Late()
    registering = asyncio.create_task(keep_registered(registry, ENGINE, every_s=0.001))
    async with asyncio.timeout(60):
        await registry.registered.wait()
    assert await registry.endpoints() == [ENGINE]
    registering.cancel()
