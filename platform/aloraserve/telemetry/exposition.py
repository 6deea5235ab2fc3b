"""The address at which a process shows its metrics to Prometheus."""

from __future__ import annotations

import errno
import ipaddress

from prometheus_client import REGISTRY, CollectorRegistry, start_http_server

from aloraserve.errors import StartError

PORTS_TRIED = 100
_ANY = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on


def serve_metrics(host: str, port: int, node_ip: str, registry: CollectorRegistry = REGISTRY) -> str:
    """Answer scrapes on a thread of its own, as long as the process lives; return the address for others.

    Args:
        host: to listen on.
        port: the first that is tried; of those that follow the first that is free. 0 lets the system choose.
        node_ip: address of this node, which stands for a host of all addresses.
        registry: what to show.

    Raises:
        StartError: none of the ports can be used.
    """
    tried = range(port, min(port + PORTS_TRIED, 65536)) if port else (0,)
    for number in tried:
        try:
            server, _ = start_http_server(number, host, registry)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            raise StartError(f"metrics cannot be served on {host} port {number}: {error.strerror}") from None
        return _address(node_ip if host in _ANY else host, server.server_port)
    raise StartError(f"metrics_port is {port}, and neither it nor the {PORTS_TRIED - 1} after it are free on {host}")


def _address(host: str, port: int) -> str:
    host = "127.0.0.1" if host == "localhost" else host
    return f"[{host}]:{port}" if ipaddress.ip_address(host).version == 6 else f"{host}:{port}"
