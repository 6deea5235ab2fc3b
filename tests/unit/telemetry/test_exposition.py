"""Metrics at an address of the process's own."""

from __future__ import annotations

import re
import socket

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from aloraserve.errors import StartError
from aloraserve.telemetry.exposition import serve_metrics

OPENMETRICS = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("vllm:calls", "Calls.", registry=registry).inc()
    return registry


def get(address: str, path: str = "/metrics") -> httpx.Response:
    return httpx.get(f"http://{address}{path}", headers=OPENMETRICS, trust_env=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_names_stay_as_they_are_whatever_format_is_asked_for(host: str, registry: CollectorRegistry) -> None:
    address, close = serve_metrics(host, 0, "10.1.2.3", registry)
    answer = get(address)
    assert "vllm:calls_total 1.0" in answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert get(address, "/etc/passwd").status_code == 404
    close()
    with pytest.raises(httpx.ConnectError):
        get(address)


def test_a_host_of_all_addresses_is_known_by_the_nodes(registry: CollectorRegistry) -> None:
    assert re.fullmatch(r"10\.1\.2\.3:\d+", serve_metrics("0.0.0.0", 0, "10.1.2.3", registry).address)


def test_processes_of_one_node_take_one_port_after_the_other(registry: CollectorRegistry) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        first, second = (serve_metrics("127.0.0.1", port, "", registry).address for _ in "ab")
    assert port < int(first.rpartition(":")[2]) < int(second.rpartition(":")[2])


def test_an_address_that_is_not_this_machines_is_refused(registry: CollectorRegistry) -> None:
    with pytest.raises(StartError, match=r"on 192\.0\.2\.1 port 9000"):
        serve_metrics("192.0.2.1", 9000, "", registry)
