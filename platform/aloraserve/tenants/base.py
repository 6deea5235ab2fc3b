"""The caller of a request, made once at the edge, and the contract of whoever knows the callers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol, Self

from aloraserve.tenants.limits import NO_LIMITS, TenantLimits
from aloraserve.tenants.salts import cache_salt_of


class Role(StrEnum):
    """Permissions of a caller; a key has a set of them."""

    INVOKE = "invoke"
    """Chats, completions and intrinsics in its tenant's name."""
    ADAPTERS = "adapters"
    """Registers and manages its tenant's own adapters."""
    ADMIN = "admin"
    """Manages keys, tenants and everybody's adapters, and sees what the platform does."""


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller.

    Args:
        tenant: the tenant's name, None for the one untenanted caller and for administrators of no tenant.
        roles: what the caller may do.
        cache_salt: what salts this caller's block keys and KV cache, None for the untenanted caller. Nothing but this
            room makes one.
        key_id: public id of the key, safe in logs; None for keys of the settings and without one.
        limits: of the tenant.
    """

    tenant: str | None = None
    roles: frozenset[Role] = frozenset({Role.INVOKE})
    cache_salt: str | None = None
    key_id: str | None = None
    limits: TenantLimits = NO_LIMITS

    @property
    def is_admin(self) -> bool:
        """Whether the caller is an administrator."""
        return Role.ADMIN in self.roles

    def may(self, role: Role) -> bool:
        """Whether the caller has a role; an administrator manages adapters too."""
        return role in self.roles or (role is Role.ADAPTERS and self.is_admin)

    def salted(self, client_salt: str | None) -> Self:
        """Return the caller of a request that has a cache salt of its own, which is folded under the tenant's name."""
        if client_salt is None:
            return self
        return replace(self, cache_salt=cache_salt_of(self.tenant, client_salt))


UNTENANTED = Caller()
"""The caller where no tenants are configured."""


class Tenants(Protocol):
    """Knows who may call. No call does I/O; a key is never repeated, in an error or in a log."""

    @property
    def is_open(self) -> bool:
        """Whether anybody on this machine may do everything, because there are no keys."""
        ...

    def knows(self, tenant: str) -> bool:
        """Whether there is a tenant of that name."""
        ...

    def authenticate(self, authorization: str | None, role: Role | None = Role.INVOKE) -> Caller:
        """Return the caller of a request.

        Args:
            authorization: the request's ``Authorization`` header or metadata.
            role: what the request needs; None: any.

        Raises:
            AuthenticationError: there is no key, or nobody has it.
            NotPermittedError: the caller is known and does not have that role.
        """
        ...
