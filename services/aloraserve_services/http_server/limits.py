"""Bounds of an HTTP server: what one client may hold, and for how long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds of a server's connections.

    Args:
        max_connections: open at once; a later one gets 503 for anything but a probe.
        max_surplus_connections: that may wait for that 503; one more closes the oldest that asks for nothing.
        max_head_bytes: of a request's line and headers together.
        head_timeout_s: from a connection's or a request's first moment until its head is complete.
        keep_alive_s: that a connection may stay open between two requests.
        stall_timeout_s: that a client may leave what it was sent unread.
        max_discarded_bytes: of a body that are read and dropped after its request was refused.
        discard_timeout_s: that this may take.
        tick_s: between two looks at the connections.
    """

    max_connections: int = 4096
    max_surplus_connections: int = 256
    max_head_bytes: int = 32 << 10
    head_timeout_s: float = 10.0
    keep_alive_s: float = 75.0
    stall_timeout_s: float = 60.0
    max_discarded_bytes: int = 8 << 20
    discard_timeout_s: float = 5.0
    tick_s: float = 0.5
