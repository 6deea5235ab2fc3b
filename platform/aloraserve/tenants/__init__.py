"""Tenants: callers, their keys and their cache salts."""

from aloraserve.tenants.base import UNTENANTED, Caller, Role

__all__ = ["UNTENANTED", "Caller", "Role"]
