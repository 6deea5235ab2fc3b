"""The servers of directory, catalog and what else gateways share."""

from __future__ import annotations

from pydantic import BaseModel, Field, SecretStr, field_validator

from aloraserve.redis.url import read_url

_Urls = SecretStr | tuple[SecretStr, ...] | None


class RedisSettings(BaseModel):
    """The servers of directory, catalog and what else gateways share."""

    redis_url: SecretStr | None = Field(None, description="Redis or Valkey URL; default: an embedded server.")
    cell_redis_urls: tuple[SecretStr, ...] = Field(
        (), max_length=64, description="A Redis or Valkey for the directory of each cell; none: all in redis_url."
    )
    namespace: str = Field("default", pattern=r"^[a-z0-9-]{1,40}$", description="Names this fleet in a shared Redis.")

    @field_validator("redis_url", "cell_redis_urls")
    @classmethod
    def _urls_can_be_read(cls, value: _Urls) -> _Urls:
        for url in (value,) if isinstance(value, SecretStr) else value or ():
            read_url(url.get_secret_value())
        return value

    @property
    def redis_address(self) -> str:
        """The URL with its secrets; empty where an embedded server is to be used."""
        return "" if self.redis_url is None else self.redis_url.get_secret_value()

    @property
    def cell_redis_addresses(self) -> tuple[str, ...]:
        """The URLs of the cells with their secrets."""
        return tuple(url.get_secret_value() for url in self.cell_redis_urls)
