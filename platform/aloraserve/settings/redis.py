"""The servers of directory, catalog and what else gateways share."""

from __future__ import annotations

from pydantic import BaseModel, Field, field_validator

from aloraserve.redis.url import read_url


class RedisSettings(BaseModel):
    """The servers of directory, catalog and what else gateways share."""

    redis_url: str | None = Field(None, description="Redis or Valkey URL; default: an embedded server.")
    cell_redis_urls: tuple[str, ...] = Field(
        (), max_length=64, description="A Redis or Valkey for the directory of each cell; none: all in redis_url."
    )
    namespace: str = Field("default", pattern=r"^[a-z0-9-]{1,40}$", description="Names this fleet in a shared Redis.")

    @field_validator("redis_url", "cell_redis_urls")
    @classmethod
    def _urls_can_be_read(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        for url in (value,) if isinstance(value, str) else value or ():
            read_url(url)
        return value
