"""The HTTP API: where it listens, and how long and how much it takes in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Self

from pydantic import BaseModel, Field, field_validator, model_validator

from aloraserve.settings.address import Address

_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")


class HttpSettings(BaseModel):
    """The HTTP API: where it listens, and how long and how much it takes in."""

    host: Address = Field("127.0.0.1", description="Address that the HTTP API listens on.")
    port: int = Field(8000, ge=1, le=65535, description="Port of the HTTP API.")
    tls_certificate: Path | None = Field(None, description="PEM certificate chain of the HTTP API; none: plain HTTP.")
    tls_key: Path | None = Field(None, description="PEM key of that certificate.")
    tls_client_ca: Path | None = Field(None, description="PEM certificates that clients' own have to be signed by.")
    max_connections: int = Field(4096, ge=1, le=100_000, description="Connections of each gateway; more get 503.")
    head_timeout_s: float = Field(
        10, gt=0, le=600, description="Time for a request's headers, and for a TLS handshake."
    )
    body_timeout_s: float = Field(10, gt=0, le=600, description="Time for a request's body, and more for a long one.")
    keep_alive_s: float = Field(75, gt=0, le=3600, description="Time that an idle connection stays open.")
    stall_timeout_s: float = Field(60, gt=0, le=3600, description="Time that a client may leave an answer unread.")

    cors_origins: tuple[str, ...] = Field(
        (), max_length=64, description="Origins whose web pages may call the API; none: no other site's."
    )
    hsts_max_age_s: int = Field(
        0, ge=0, le=63_072_000, description="Seconds that browsers call this host by TLS alone; 0: as they like."
    )

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_whole(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin[:80]!r} is not an origin; https://host, with a port if need be, or * is accepted"
                )
        if "*" in value and len(value) > 1:
            raise ValueError("* stands for every origin: no other is needed beside it")
        return value

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together: set both or none")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        if self.hsts_max_age_s and self.tls_certificate is None:
            raise ValueError("hsts_max_age_s needs tls_certificate and tls_key")
        return self
