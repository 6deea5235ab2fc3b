"""The limits that hold for a caller: its tenant's own, else those of the settings."""

from __future__ import annotations

from collections.abc import Mapping

from aloraserve.tenants.base import Caller
from aloraserve.tenants.limits import NO_LIMITS, TenantLimits


class EffectiveLimits:
    """See the module's docstring.

    Args:
        by_tenant: of the settings, for tenants whose record has none.
        default: of each tenant that has none there either; callers without a tenant share one.
    """

    def __init__(self, by_tenant: Mapping[str, TenantLimits] | None = None, default: TenantLimits = NO_LIMITS) -> None:
        self._by_tenant = by_tenant or {}
        self._default = default

    def of(self, caller: Caller) -> TenantLimits:
        """Return the limits of a caller's tenant."""
        if caller.limits != NO_LIMITS:
            return caller.limits
        return self._by_tenant.get(caller.tenant or "", self._default)
