"""Who calls: an API key names a tenant, and a tenant's cache is its own; an admin key reads what concerns all."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from pydantic import SecretStr

from aloraserve.errors import AuthenticationError, NotPermittedError


class Access:
    """Checks keys.

    Args:
        api_keys: tenant -> key; empty means that everyone is the one untenanted caller.
        admin_keys: administrator -> key; empty means that no tenant is one, and everyone on this machine is where there
            are no tenants.
        is_public: whether callers from other machines come here.
    """

    def __init__(
        self,
        api_keys: Mapping[str, SecretStr],
        admin_keys: Mapping[str, SecretStr] | None = None,
        *,
        is_public: bool = False,
    ) -> None:
        self._keys = _encoded(api_keys)
        self._admin_keys = _encoded(admin_keys or {})
        self._is_public = is_public

    def cache_salt(self, authorization: str | None) -> str | None:
        """Return the caller's cache salt, None for the untenanted caller.

        Args:
            authorization: the request's ``Authorization`` header.

        Raises:
            AuthenticationError: there is no key, or nobody has it. The key is never repeated.
        """
        if not self._keys:
            return None
        found = _owner(self._keys, _given(authorization))
        if found is None:
            raise AuthenticationError("the API key is not known")
        return f"tenant:{found}"

    def check_admin(self, authorization: str | None) -> None:
        """Return if the caller is an administrator.

        Args:
            authorization: the request's ``Authorization`` header.

        Raises:
            AuthenticationError: there is no key, or nobody has it.
            NotPermittedError: it is a tenant's, or nobody has one and this is a public address.
        """
        if not self._keys and not self._admin_keys:
            if self._is_public:
                raise NotPermittedError("on a public address this needs a key of the setting admin_keys; none is set")
            return
        given = _given(authorization)
        admin, tenant = _owner(self._admin_keys, given), _owner(self._keys, given)
        if admin is None and tenant is None:
            raise AuthenticationError("the API key is not known")
        if admin is None:
            raise NotPermittedError("this needs a key of the setting admin_keys; a tenant's key does not do")


def _encoded(keys: Mapping[str, SecretStr]) -> dict[str, bytes]:
    return {name: key.get_secret_value().encode() for name, key in keys.items()}


def _given(authorization: str | None) -> bytes:
    scheme, _, given = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not given:
        raise AuthenticationError("an API key is needed: send the header 'Authorization: Bearer <key>'")
    return given.strip().encode()


def _owner(keys: Mapping[str, bytes], given: bytes) -> str | None:
    found = None
    # Every key is compared, so that the time taken tells nothing about which one is near.
    for name, key in keys.items():
        if hmac.compare_digest(key, given):
            found = name
    return found
