"""Tenants: callers, their keys, limits and cache salts."""

from aloraserve.tenants.base import UNTENANTED, Caller, Role, Tenants
from aloraserve.tenants.limits import NO_LIMITS, TenantLimits
from aloraserve.tenants.names import NAME_RULE, is_name
from aloraserve.tenants.record import TenantRecord
from aloraserve.tenants.static import StaticTenants

__all__ = [
    "NAME_RULE",
    "NO_LIMITS",
    "UNTENANTED",
    "Caller",
    "Role",
    "StaticTenants",
    "TenantLimits",
    "TenantRecord",
    "Tenants",
    "is_name",
]
