"""The caller of a request, made once at the edge, and the contract of whoever knows the callers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Role(StrEnum):
    """Permissions of a caller."""

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


class Tenants(Protocol):
    """Knows who may call. No call does I/O; a key is never repeated, in an error or in a log."""

    def authenticate(self, authorization: str | None, role: Role = Role.TENANT) -> Caller:
        """Return the caller of a request.

        Args:
            authorization: the request's ``Authorization`` header or metadata.
            role: what the request needs.

        Raises:
            AuthenticationError: there is no key, or no caller in that role or a lower one has it.
            NotPermittedError: the caller is known and does not have that role.
        """
        ...
