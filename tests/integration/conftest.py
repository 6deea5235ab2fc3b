"""The event loops that the tests of this folder run on, and a replica behind a channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import psutil
import pytest
import uvloop
from support.channel_fleet import ChannelFleet, channel_fleet, until
from support.pool_replica import running

ON_BOTH = ("test_channel_faults.py", "test_channel_killed.py", "test_channel_places.py", "test_redis_channel.py")
"""Sockets are handled by hand there; gateways and replicas run on uvloop."""


def pytest_asyncio_loop_factories(
    config: pytest.Config,
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Return the loops by name."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.name in ON_BOTH:
        loops["uvloop"] = uvloop.new_event_loop
    return loops


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[ChannelFleet]:
    """One replica, and a count of what its process has open before and after."""
    before = len(psutil.Process().net_connections("all")), len(asyncio.all_tasks())
    async with channel_fleet(tmp_path, "a") as made:
        yield made
    await until(
        lambda: (len(psutil.Process().net_connections("all")), len(asyncio.all_tasks())) <= before, "nothing leaked"
    )
    assert not running(tmp_path)
