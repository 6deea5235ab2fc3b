"""The machine and the cluster that this process runs in, as Ray knows them."""

from __future__ import annotations

import ipaddress
import socket

_ELSEWHERE = ("192.0.2.1", 9)
"""An address of nobody's (RFC 5737): the kernel says which of its own it would send from, and nothing is sent."""


def node_ip() -> str:
    """Return this node's address, as other nodes reach it."""
    from ray.util import get_node_ip_address

    known = str(get_node_ip_address())
    # A Ray of one machine alone knows no other address than the loopback's.
    return _outward() or known if ipaddress.ip_address(known).is_loopback else known


def fleet_application(name: str) -> str:
    """Return how an application is named among those that share a namespace: two Ray clusters may have one each.

    Ray's name of a cluster is the same until its head loses its state.

    Args:
        name: Serve's, unique in this process's Ray cluster.

    Raises:
        RuntimeError: the process is in none.
    """
    import ray

    return f"{ray.get_runtime_context().get_session_name()}.{name}"


def _outward() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_ELSEWHERE)
        except OSError:
            return None
        return str(probe.getsockname()[0])
