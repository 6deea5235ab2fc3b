"""Tenants and administrators from the settings ``api_keys`` and ``admin_keys``."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from pydantic import SecretStr

from aloraserve.errors import AuthenticationError, NotPermittedError
from aloraserve.tenants.base import UNTENANTED, Caller, Role
from aloraserve.tenants.salts import cache_salt_of
from aloraserve.tenants.sealing import SALT_BYTES, digest_of, read_key

EVERYONE = Caller(roles=frozenset(Role))
"""The caller where neither tenants nor administrators are configured, on an address that only this machine reaches."""
_ADMIN = Caller(roles=frozenset({Role.ADMIN}))


class StaticTenants:
    """See :class:`~aloraserve.tenants.base.Tenants`; the keys do not change while the process runs.

    Args:
        api_keys: tenant -> key; empty means that everyone is the one untenanted caller.
        admin_keys: administrator -> key; empty means that no tenant is an administrator. Without tenants everyone on
            this machine is one.
        is_public: whether callers from other machines come here: then nobody does without a key.
    """

    def __init__(
        self,
        api_keys: Mapping[str, SecretStr],
        admin_keys: Mapping[str, SecretStr] | None = None,
        *,
        is_public: bool = False,
    ) -> None:
        self._names = frozenset(api_keys)
        self._has_admins = bool(admin_keys)
        self._is_public = is_public
        # Keys are looked up by a digest that nobody can foresee: the time taken says nothing about which one is near.
        self._salt = secrets.token_bytes(SALT_BYTES)
        self._callers: dict[bytes, dict[bytes, Caller]] = {}
        for name, key in api_keys.items():
            self._add(key, _tenant(name))
        for key in (admin_keys or {}).values():
            self._add(key, _ADMIN)

    def authenticate(self, authorization: str | None, role: Role | None = Role.INVOKE) -> Caller:
        """See the contract."""
        if (anyone := self.anyone(role)) is not None:
            return anyone
        caller = self.find(key_in(authorization))
        if caller is None:
            raise AuthenticationError("the API key is not known")
        return permitted(caller, role)

    def anyone(self, role: Role | None) -> Caller | None:
        """Return the caller of a request that needs no key in this role, None if it needs one."""
        if self._is_public or self._names:
            return None
        if not self._has_admins:
            return EVERYONE
        return UNTENANTED if role in (None, Role.INVOKE) else None

    @property
    def is_open(self) -> bool:
        """Whether anybody on this machine may do everything, because there are no keys."""
        return self.anyone(Role.ADMIN) is not None

    def knows(self, tenant: str) -> bool:
        """Whether there is a tenant of that name."""
        return tenant in self._names

    def find(self, key: bytes) -> Caller | None:
        """Return who has a key, None if nobody does."""
        found = (callers.get(digest_of(key, salt)) for salt, callers in self._callers.items())
        return next((caller for caller in found if caller is not None), None)

    def _add(self, key: SecretStr, caller: Caller) -> None:
        salt, digest = read_key(key, self._salt)
        self._callers.setdefault(salt, {})[digest] = caller


def key_in(authorization: str | None) -> bytes:
    """Return the key of an ``Authorization`` header.

    Raises:
        AuthenticationError: it has none.
    """
    scheme, _, given = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not given:
        raise AuthenticationError("an API key is needed: send the header 'Authorization: Bearer <key>'")
    return given.strip().encode("utf-8", "surrogatepass")


def permitted(caller: Caller, role: Role | None) -> Caller:
    """Return a caller who has a role.

    Raises:
        NotPermittedError: the caller does not have it; says which one is missing.
    """
    if role is None or caller.may(role):
        return caller
    has = ", ".join(sorted(caller.roles)) or "none"
    raise NotPermittedError(f"this needs a key with the role {role}; this key's roles: {has}")


def _tenant(name: str) -> Caller:
    return Caller(name, cache_salt=cache_salt_of(name))
