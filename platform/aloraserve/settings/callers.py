"""Who may call."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Self

from pydantic import BaseModel, Field, SecretStr, field_validator, model_validator

from aloraserve.tenants.names import NAME_RULE, is_name
from aloraserve.tenants.sealing import MARK

MAX_TENANTS = 1024
MAX_ADMINS = 64
MIN_KEY = 16
_KEY = re.compile(rf"[!-~]{{{MIN_KEY},}}")


class CallerSettings(BaseModel):
    """Who may call."""

    api_keys: dict[str, SecretStr] = Field(
        default_factory=dict,
        max_length=MAX_TENANTS,
        description="Tenant -> API key, beside those that the platform keeps itself.",
    )
    admin_keys: dict[str, SecretStr] = Field(
        default_factory=dict,
        max_length=MAX_ADMINS,
        description="Administrator -> key that may do everything but call models.",
    )
    key_pepper_file: Path | None = Field(
        None, description="File of the secret that made keys are digested under; default: in the state folder."
    )

    @field_validator("api_keys", "admin_keys")
    @classmethod
    def _names_are_plain(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        wrong = next((name for name in value if not is_name(name)), None)
        if wrong is not None:
            # A long one may be a key that was taken for a name.
            shown = repr(wrong) if len(wrong) < MIN_KEY else f"a name of {len(wrong)} characters"
            raise ValueError(
                f"{shown} is not a name: {NAME_RULE} are accepted. Rename it here, and as the owner of its adapters"
            )
        return value

    @field_validator("api_keys", "admin_keys")
    @classmethod
    def _keys_are_long_and_distinct(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        secrets = [key.get_secret_value() for key in value.values()]
        if not all(_KEY.fullmatch(secret) for secret in secrets):
            raise ValueError("each key needs at least 16 printable ASCII characters without spaces")
        if any(secret.startswith(MARK) for secret in secrets):
            raise ValueError(f"a key may not begin with {MARK}")
        if len(set(secrets)) != len(secrets):
            raise ValueError("two of them have the same key")
        return value

    @model_validator(mode="after")
    def _admins_are_no_tenants(self) -> Self:
        tenants = {key.get_secret_value() for key in self.api_keys.values()}
        if any(key.get_secret_value() in tenants for key in self.admin_keys.values()):
            raise ValueError("admin_keys has a key of api_keys: an administrator needs one of their own")
        return self
