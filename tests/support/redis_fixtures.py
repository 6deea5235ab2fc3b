"""Fixtures of servers that tests share: each test has namespaces of its own there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.declared_keys import refuse_undeclared_keys
from support.redis_deployments import Cluster, Server
from support.redis_servers import OTHER_SERVERS, SOURCES, server_binary


@pytest.fixture(scope="session")
def other_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """URLs of started servers by make and version, those that this machine has."""
    started: dict[str, Server] = {}
    try:
        for name in OTHER_SERVERS:
            if binary := server_binary(name):
                started[name] = Server(tmp_path_factory.mktemp(name), binary=binary)
                started[name].start()
        yield {name: server.url for name, server in started.items()}
    finally:
        for server in started.values():
            server.kill()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of a module's own: its tests may move slots."""
    started = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        started.start()
        yield started
    finally:
        started.stop()


def url_of(request: pytest.FixtureRequest, name: str) -> str:
    """Return where a test finds a server: ``redis``, ``cluster`` or one of the others.

    ``declared-keys`` is ``redis`` with scripts that fail at a key that they did not declare.

    Skips the test where this machine has no such server.
    """
    if name in OTHER_SERVERS:
        urls: dict[str, str] = request.getfixturevalue("other_servers")
        if name not in urls:
            pytest.skip(f"{name} is not installed: {SOURCES[name]}")
        return urls[name]
    if name == "declared-keys":
        refuse_undeclared_keys(request.getfixturevalue("monkeypatch"))
    server = request.getfixturevalue("cluster" if name == "cluster" else "redis_server")
    return str(server.url)
