"""One fleet's gateways share a port; nobody else's server does."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from support.redis_deployments import free_port

from aloraserve.errors import StartError
from aloraserve_services.http_server.listening import SharedPort

HOST = "127.0.0.1"
Claim = Callable[..., SharedPort]


@pytest.fixture
def claim(tmp_path: Path) -> Iterator[Claim]:
    """Claim a port; released at the end."""
    with contextlib.ExitStack() as stack:

        def claimed(port: int, fleet: str = "ours", host: str = HOST) -> SharedPort:
            shared = SharedPort(host, port, fleet, tmp_path)
            stack.callback(shared.release)
            stack.callback(shared.socket.close)
            return shared

        yield claimed


def leave(shared: SharedPort) -> None:
    shared.socket.close()
    shared.release()


def accepted(shared: SharedPort) -> int:
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            shared.socket.accept()[0].close()
            count += 1
    return count


def test_gateways_of_a_fleet_share_its_port_and_its_connections(claim: Claim) -> None:
    port = free_port()
    gateways = [claim(port) for _ in range(3)]
    clients = [socket.create_connection((HOST, port)) for _ in range(300)]
    counts = Counter({index: accepted(gateway) for index, gateway in enumerate(gateways)})
    for client in clients:
        client.close()
    assert counts.total() == 300
    assert min(counts.values()) > 30


def test_another_fleet_is_refused(claim: Claim) -> None:
    port = free_port()
    claim(port)
    claim(port)
    with pytest.raises(StartError, match=f"port {port} on {HOST} cannot be used"):
        claim(port, "theirs")
    with pytest.raises(StartError, match=f"port {port} on 0.0.0.0 cannot be used"):
        claim(port, host="0.0.0.0")


@pytest.mark.parametrize("shares", [True, False])
def test_a_stranger_s_port_is_refused_whether_it_would_share_or_not(claim: Claim, shares: bool) -> None:
    with socket.create_server((HOST, 0), reuse_port=shares) as stranger:
        port = stranger.getsockname()[1]
        with pytest.raises(StartError, match="or stop what listens there"):
            claim(port)
    claim(port)


def test_a_stranger_that_came_between_two_of_a_fleet_is_noticed(claim: Claim) -> None:
    port = free_port()
    leave(claim(port))
    with socket.create_server((HOST, port), reuse_port=True), pytest.raises(StartError):
        claim(port)


def test_a_gateway_may_come_and_go_while_others_stay(claim: Claim) -> None:
    port = free_port()
    first, second = claim(port), claim(port)
    leave(first)
    third = claim(port)
    leave(second)
    claim(port)
    leave(third)
    with pytest.raises(StartError):
        claim(port, "theirs")


def test_a_gateway_that_was_killed_holds_nothing(claim: Claim, tmp_path: Path) -> None:
    port = free_port()
    code = (
        "import pathlib, sys; from aloraserve_services.http_server.listening import SharedPort;"
        f"shared = SharedPort('{HOST}', {port}, 'theirs', pathlib.Path({str(tmp_path)!r}));"
        "print('listening', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline()
    with pytest.raises(StartError):
        claim(port)
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    claim(port)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_what_is_for_this_machine_listens_on_its_loopback_address_alone(claim: Claim, host: str) -> None:
    port = free_port()
    claim(port, host=host)
    listening = [
        connection.laddr.ip
        for connection in psutil.Process(os.getpid()).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    ]
    assert listening == ["::1" if host == "::1" else "127.0.0.1"]


def test_an_address_of_another_machine_is_named(claim: Claim) -> None:
    with pytest.raises(StartError, match=r"192\.0\.2\.1 cannot be used"):
        claim(free_port(), host="192.0.2.1")
