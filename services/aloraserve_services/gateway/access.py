"""Who calls: an API key names a tenant, and a tenant's cache is its own."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from pydantic import SecretStr

from aloraserve.errors import AuthenticationError


class Access:
    """Checks keys.

    Args:
        api_keys: tenant -> key; empty means that everyone is the one untenanted caller.
    """

    def __init__(self, api_keys: Mapping[str, SecretStr]) -> None:
        self._keys = {tenant: key.get_secret_value().encode() for tenant, key in api_keys.items()}

    def cache_salt(self, authorization: str | None) -> str | None:
        """Return the caller's cache salt, None for the untenanted caller.

        Args:
            authorization: the request's ``Authorization`` header.

        Raises:
            AuthenticationError: there is no key, or nobody has it. The key is never repeated.
        """
        if not self._keys:
            return None
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not given:
            raise AuthenticationError("an API key is needed: send the header 'Authorization: Bearer <key>'")
        found = None
        # Every key is compared, so that the time taken tells nothing about which one is near.
        for tenant, key in self._keys.items():
            if hmac.compare_digest(key, given.strip().encode()):
                found = tenant
        if found is None:
            raise AuthenticationError("the API key is not known")
        return f"tenant:{found}"
