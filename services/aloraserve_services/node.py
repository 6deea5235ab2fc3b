"""The machine that this process runs on, as Ray knows it."""

from __future__ import annotations


def node_ip() -> str:
    """Return this node's address, as other nodes reach it."""
    from ray.util import get_node_ip_address

    return str(get_node_ip_address())
