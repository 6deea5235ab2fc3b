"""Keys of the settings as they travel to the gateways: as digests, so that no other process ever has one."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from typing import NamedTuple

from pydantic import SecretStr

MARK = "hmac-sha256$"
SALT_BYTES = 16


class SealedKey(NamedTuple):
    """What is left of a key.

    Args:
        salt: that it was digested with.
        digest: of it.
    """

    salt: bytes
    digest: bytes


def digest_of(key: bytes, salt: bytes) -> bytes:
    """Return what is kept of a key."""
    return hmac.digest(salt, key, "sha256")


def sealed(keys: Mapping[str, SecretStr]) -> dict[str, SecretStr]:
    """Return the keys as digests with one random salt; those that are digests stay as they are."""
    salt = secrets.token_bytes(SALT_BYTES)
    return {name: SecretStr(_text(read_key(key, salt))) for name, key in keys.items()}


def read_key(key: SecretStr, salt: bytes) -> SealedKey:
    """Return what is left of a key, sealed already or not.

    Args:
        key: of the settings.
        salt: for one that is not sealed.
    """
    text = key.get_secret_value()
    if not text.startswith(MARK):
        return SealedKey(salt, digest_of(text.encode(), salt))
    own_salt, _, digest = text.removeprefix(MARK).partition("$")
    return SealedKey(bytes.fromhex(own_salt), bytes.fromhex(digest))


def _text(key: SealedKey) -> str:
    return f"{MARK}{key.salt.hex()}${key.digest.hex()}"
