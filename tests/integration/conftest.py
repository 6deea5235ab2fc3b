"""What holds for all tests of this folder: they meet real servers and their times, on these event loops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import uvloop

ON_BOTH = "test_redis_channel.py"
"""Sockets are handled by hand there; gateways and replicas run on uvloop."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them, so that they do not run at low priority beside engines."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("integration")


def pytest_asyncio_loop_factories(
    config: pytest.Config,
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Return the loops by name."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.name == ON_BOTH:
        loops["uvloop"] = uvloop.new_event_loop
    return loops
