"""Each backend of the list of metrics endpoints keeps the contract."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest
from support.redis_fixtures import url_of
from support.redis_servers import OTHER_SERVERS

from aloraserve.telemetry.endpoints import EndpointRegistry, MetricsEndpoint
from aloraserve.telemetry.memory_endpoints import MemoryEndpoints
from aloraserve.telemetry.redis_endpoints import RedisEndpoints

SHORT_S = 0.15
Make = Callable[..., EndpointRegistry]

pytestmark = pytest.mark.untimed


@pytest.fixture(params=["memory", "redis", "declared-keys", "cluster", *OTHER_SERVERS])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    url = None if request.param == "memory" else url_of(request, request.param)
    async with AsyncExitStack() as stack:

        def build(**options: int) -> EndpointRegistry:
            registry: EndpointRegistry = (
                RedisEndpoints.from_url(url, namespace=request.node.name, timeout_s=5.0, **options)
                if url
                else MemoryEndpoints(**options)
            )
            stack.push_async_callback(registry.close)
            return registry

        yield build


@pytest.fixture
def registry(make: Make) -> EndpointRegistry:
    return make()


async def names(registry: EndpointRegistry) -> list[str]:
    return [endpoint.name for endpoint in await registry.endpoints()]


async def test_endpoints_are_listed_once_by_role_and_name(registry: EndpointRegistry) -> None:
    engine = MetricsEndpoint("engine", "engine-0", "10.0.0.1:9000")
    gateway = MetricsEndpoint("gateway", "g \u00fc {x}", "10.0.0.1:9001")
    for endpoint in (engine, gateway, engine):
        await registry.register_endpoint(endpoint)
    assert await registry.endpoints() == [engine, gateway]


async def test_a_process_that_starts_again_takes_its_own_place(registry: EndpointRegistry) -> None:
    await registry.register_endpoint(MetricsEndpoint("engine", "engine-0", "10.0.0.1:9000"))
    await registry.register_endpoint(MetricsEndpoint("engine", "engine-0", "10.0.0.2:9000"))
    assert await registry.endpoints() == [MetricsEndpoint("engine", "engine-0", "10.0.0.2:9000")]


async def test_a_process_that_falls_silent_is_no_longer_listed(registry: EndpointRegistry) -> None:
    await registry.register_endpoint(MetricsEndpoint("engine", "a", "h:1"), ttl_s=SHORT_S)
    await registry.register_endpoint(MetricsEndpoint("engine", "b", "h:2"))
    deadline = time.monotonic() + 30.0
    while await names(registry) != ["b"]:
        assert time.monotonic() < deadline, "is still listed"
        await asyncio.sleep(0.01)
    await registry.register_endpoint(MetricsEndpoint("engine", "c", "h:3"), ttl_s=SHORT_S)
    assert await names(registry) == ["b", "c"]


async def test_there_are_no_more_endpoints_than_the_most(make: Make) -> None:
    registry = make(max_endpoints=2)
    for name in ("a", "b", "c", "a"):
        await registry.register_endpoint(MetricsEndpoint("engine", name, f"{name}:1"))
    assert await names(registry) == ["a", "b"]


async def test_an_empty_or_endless_part_is_refused(registry: EndpointRegistry) -> None:
    for endpoint in (MetricsEndpoint("", "a", "h:1"), MetricsEndpoint("engine", "a" * 256, "h:1")):
        with pytest.raises(ValueError, match="1 to 255 characters"):
            await registry.register_endpoint(endpoint)
