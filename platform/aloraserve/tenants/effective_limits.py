"""The limits that hold for a caller: each is its tenant's own, else that of the settings."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import msgspec

from aloraserve.tenants.base import Caller
from aloraserve.tenants.limits import NO_LIMITS, TenantLimits


class EffectiveLimits:
    """See the module's docstring.

    Args:
        by_tenant: of the settings, for what a tenant's record leaves open.
        default: for what both leave open; callers without a tenant share one.
    """

    def __init__(self, by_tenant: Mapping[str, TenantLimits] | None = None, default: TenantLimits = NO_LIMITS) -> None:
        self._by_tenant = by_tenant or {}
        self._default = default

    def of(self, caller: Caller) -> TenantLimits:
        """Return the limits of a caller's tenant."""
        return _merged(caller.limits, self._by_tenant.get(caller.tenant or "", NO_LIMITS), self._default)


@functools.lru_cache(maxsize=4096)
def _merged(*from_high_to_low: TenantLimits) -> TenantLimits:
    """Return limits of which each is the first that is set; to set a default is to leave it open."""
    found: dict[str, object] = {}
    for limits in reversed(from_high_to_low):
        found |= {name: value for name, value in msgspec.to_builtins(limits).items() if value is not None}
    return msgspec.convert(found, TenantLimits)
