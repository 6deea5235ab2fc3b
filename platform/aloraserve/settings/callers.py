"""Who may call."""

from __future__ import annotations

import re
from typing import Self

from pydantic import BaseModel, Field, SecretStr, field_validator, model_validator

MAX_TENANTS = 1024
MAX_ADMINS = 64
_KEY = re.compile(r"[!-~]{16,}")


class CallerSettings(BaseModel):
    """Who may call."""

    api_keys: dict[str, SecretStr] = Field(
        default_factory=dict,
        max_length=MAX_TENANTS,
        description="Tenant -> API key; empty: no authentication.",
    )
    admin_keys: dict[str, SecretStr] = Field(
        default_factory=dict,
        max_length=MAX_ADMINS,
        description="Administrator -> key that reads routing receipts; without it no tenant may.",
    )
    allow_anonymous: bool = Field(False, description="Listen on a public address without API keys.")

    @field_validator("api_keys", "admin_keys")
    @classmethod
    def _keys_are_long_and_distinct(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        secrets = [key.get_secret_value() for key in value.values()]
        if not all(_KEY.fullmatch(secret) for secret in secrets):
            raise ValueError("each key needs at least 16 printable ASCII characters without spaces")
        if len(set(secrets)) != len(secrets):
            raise ValueError("two of them have the same key")
        return value

    @model_validator(mode="after")
    def _admins_are_no_tenants(self) -> Self:
        tenants = {key.get_secret_value() for key in self.api_keys.values()}
        if any(key.get_secret_value() in tenants for key in self.admin_keys.values()):
            raise ValueError("admin_keys has a key of api_keys: an administrator needs one of their own")
        return self
