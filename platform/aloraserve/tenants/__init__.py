"""Tenants: callers, their keys and their cache salts."""

from aloraserve.tenants.base import UNTENANTED, Caller, Role, Tenants
from aloraserve.tenants.static import StaticTenants

__all__ = ["UNTENANTED", "Caller", "Role", "StaticTenants", "Tenants"]
