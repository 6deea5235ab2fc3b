"""Tenants and administrators from the settings ``api_keys`` and ``admin_keys``."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from pydantic import SecretStr

from aloraserve.errors import AuthenticationError, NotPermittedError
from aloraserve.tenants.base import UNTENANTED, Caller, Role

_EVERYONE = Caller(roles=frozenset(Role))
"""The caller where neither tenants nor administrators are configured, on an address that only this machine reaches."""
_ADMIN = Caller(roles=frozenset({Role.ADMIN}))


class StaticTenants:
    """See :class:`~aloraserve.tenants.base.Tenants`; the keys do not change while the process runs.

    Args:
        api_keys: tenant -> key; empty means that everyone is the one untenanted caller.
        admin_keys: administrator -> key; empty means that no tenant is an administrator. Without tenants everyone on
            this machine is one.
        is_public: whether callers from other machines come here.
    """

    def __init__(
        self,
        api_keys: Mapping[str, SecretStr],
        admin_keys: Mapping[str, SecretStr] | None = None,
        *,
        is_public: bool = False,
    ) -> None:
        self._tenants = {name: (key, _tenant(name)) for name, key in _encoded(api_keys).items()}
        self._admins = {name: (key, _ADMIN) for name, key in _encoded(admin_keys or {}).items()}
        self._is_public = is_public

    def authenticate(self, authorization: str | None, role: Role = Role.TENANT) -> Caller:
        """See the contract."""
        return self._admin(authorization) if role is Role.ADMIN else self._caller(authorization)

    def _caller(self, authorization: str | None) -> Caller:
        if not self._tenants:
            return UNTENANTED
        found = _owner(self._tenants, _key(authorization))
        if found is None:
            raise AuthenticationError("the API key is not known")
        return found

    def _admin(self, authorization: str | None) -> Caller:
        if not self._tenants and not self._admins:
            if self._is_public:
                raise NotPermittedError("on a public address this needs a key of the setting admin_keys; none is set")
            return _EVERYONE
        key = _key(authorization)
        admin, tenant = _owner(self._admins, key), _owner(self._tenants, key)
        if admin is None and tenant is None:
            raise AuthenticationError("the API key is not known")
        if admin is None:
            raise NotPermittedError("this needs a key of the setting admin_keys; a tenant key is not sufficient")
        return admin


def _tenant(name: str) -> Caller:
    return Caller(name, cache_salt=f"tenant:{name}")


def _encoded(keys: Mapping[str, SecretStr]) -> dict[str, bytes]:
    return {name: key.get_secret_value().encode() for name, key in keys.items()}


def _key(authorization: str | None) -> bytes:
    scheme, _, given = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not given:
        raise AuthenticationError("an API key is needed: send the header 'Authorization: Bearer <key>'")
    return given.strip().encode()


def _owner(callers: Mapping[str, tuple[bytes, Caller]], given: bytes) -> Caller | None:
    found = None
    # Every key is compared, so that the time taken says nothing about which one is near.
    for key, caller in callers.values():
        if hmac.compare_digest(key, given):
            found = caller
    return found
