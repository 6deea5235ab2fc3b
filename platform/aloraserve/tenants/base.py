"""Who calls: the one object that carries a tenant through the platform, made once at the edge."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a caller may do."""

    TENANT = "tenant"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller.

    Args:
        tenant: the tenant's name, None for the one untenanted caller.
        roles: what the caller may do.
        cache_salt: what salts this tenant's block keys and KV cache, None for the untenanted caller. Nothing but this
            room makes one.
    """

    tenant: str | None = None
    roles: frozenset[Role] = frozenset({Role.TENANT})
    cache_salt: str | None = None

    @property
    def is_admin(self) -> bool:
        """Whether the caller is an administrator."""
        return Role.ADMIN in self.roles


UNTENANTED = Caller()
"""The caller where no tenants are configured."""
