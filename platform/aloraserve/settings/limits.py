"""How much each tenant may ask for."""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic import BaseModel, Field, field_validator

from aloraserve.settings.callers import MAX_TENANTS
from aloraserve.tenants import TenantLimits
from aloraserve.tenants.effective_limits import EffectiveLimits


class LimitSettings(BaseModel):
    """How much each tenant may ask for."""

    limits: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        max_length=MAX_TENANTS,
        description="Tenant -> limits and weight, for tenants whose record has none.",
    )
    default_limits: dict[str, Any] = Field(
        default_factory=dict, description="Limits and weight of each tenant that has none of its own."
    )

    @field_validator("limits")
    @classmethod
    def _limits_of_tenants(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for tenant, given in value.items():
            _limits(given, f"of {tenant[:64]!r}: ")
        return value

    @field_validator("default_limits")
    @classmethod
    def _limits_of_others(cls, value: dict[str, Any]) -> dict[str, Any]:
        _limits(value, "")
        return value

    @property
    def effective_limits(self) -> EffectiveLimits:
        """The limits of every caller."""
        by_tenant = {tenant: _limits(given, "") for tenant, given in self.limits.items()}
        return EffectiveLimits(by_tenant, _limits(self.default_limits, ""))


def _limits(given: dict[str, Any], whose: str) -> TenantLimits:
    known = ", ".join(TenantLimits.__struct_fields__)
    unknown = sorted(set(given) - set(TenantLimits.__struct_fields__))
    if unknown:
        raise ValueError(f"{whose}unknown limit {unknown[0][:64]!r}; known are {known}")
    try:
        return msgspec.convert(given, TenantLimits)
    except msgspec.ValidationError as error:
        raise ValueError(f"{whose}{error}") from None
