"""The gRPC API: where it listens, and how much it takes in. Address, certificates and times are the HTTP API's."""

from __future__ import annotations

from pydantic import BaseModel, Field


class GrpcSettings(BaseModel):
    """The gRPC API: where it listens, and how much it takes in."""

    grpc_port: int | None = Field(None, ge=1, le=65535, description="Port of the gRPC API; none: there is no gRPC.")
    grpc_reflection: bool | None = Field(
        None, description="Describe the gRPC services to whoever asks; none: on loopback addresses only."
    )
    grpc_max_streams: int = Field(1000, ge=1, le=100_000, description="gRPC calls at once on one connection.")
    grpc_keepalive_s: float = Field(
        30,
        ge=1,
        le=3600,
        description="Silence after which a gRPC connection is probed; clients may ping twice as often.",
    )
    grpc_max_connection_age_s: float = Field(
        1800,
        ge=10,
        le=86_400,
        description="Age at which a gRPC connection takes no more calls: clients then spread again.",
    )
