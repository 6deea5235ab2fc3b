"""The servers of directory, catalog and what else gateways share."""

from __future__ import annotations

from pydantic import BaseModel, Field


class RedisSettings(BaseModel):
    """The servers of directory, catalog and what else gateways share."""

    redis_url: str | None = Field(None, description="Redis or Valkey URL; default: an embedded server.")
    cell_redis_urls: tuple[str, ...] = Field(
        (), max_length=64, description="A Redis or Valkey for the directory of each cell; none: all in redis_url."
    )
    namespace: str = Field("default", pattern=r"^[a-z0-9-]{1,40}$", description="Names this fleet in a shared Redis.")
