"""Bounds of a gRPC server: what one client may hold, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

IDENTITY = 1
"""Bit of the one compression that is accepted: a short message that becomes a long one is refused."""
MAX_PINGS = 2


@dataclass(frozen=True, slots=True)
class GrpcLimits:
    """Bounds of a server's connections and calls.

    Args:
        max_message_bytes: of a request.
        max_connections: open at once.
        max_calls: in progress at once.
        max_streams: calls at once on one connection.
        max_metadata_bytes: of a request.
        handshake_s: for a new connection, TLS included.
        keepalive_s: a client may ping that often; a connection that is silent as long is asked whether it lives.
        max_idle_s: that a connection may stay open without a call.
        max_age_s: after which a connection takes no more calls, so that clients spread over the gateways again.
    """

    max_message_bytes: int
    max_connections: int = 4096
    max_calls: int = 4096
    max_streams: int = 1000
    max_metadata_bytes: int = 32 << 10
    handshake_s: float = 10.0
    keepalive_s: float = 30.0
    max_idle_s: float = 300.0
    max_age_s: float = 1800.0

    def options(self) -> list[tuple[str, int]]:
        """Return them as gRPC has them (``grpc/impl/channel_arg_names.h``)."""
        return [
            ("grpc.so_reuseport", 1),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_allowed_incoming_connections", self.max_connections),
            ("grpc.max_concurrent_streams", self.max_streams),
            ("grpc.max_metadata_size", self.max_metadata_bytes // 2),
            ("grpc.absolute_max_metadata_size", self.max_metadata_bytes),
            ("grpc.compression_enabled_algorithms_bitset", IDENTITY),
            ("grpc.server_handshake_timeout_ms", _ms(self.handshake_s)),
            ("grpc.keepalive_time_ms", _ms(self.keepalive_s)),
            ("grpc.keepalive_timeout_ms", _ms(self.handshake_s)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", _ms(self.keepalive_s / 2)),
            ("grpc.http2.max_ping_strikes", MAX_PINGS),
            ("grpc.max_connection_idle_ms", _ms(self.max_idle_s)),
            ("grpc.max_connection_age_ms", _ms(self.max_age_s)),
        ]


def _ms(seconds: float) -> int:
    return max(1, int(seconds * 1000))
