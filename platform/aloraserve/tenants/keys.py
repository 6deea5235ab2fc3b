"""API keys that the platform makes: random, with a public id, kept as an HMAC under a secret of the platform's."""

from __future__ import annotations

import hmac
import re
import secrets
from typing import Annotated, Literal, NamedTuple

import msgspec

from aloraserve.tenants.base import Role

PREFIX = "ak-"
ID_DIGITS = 12
SECRET_BYTES = 32
MAX_LABEL_CHARACTERS = 100
_KEY = re.compile(rb"ak-([0-9a-f]{%d})-[A-Za-z0-9_-]{43}" % ID_DIGITS)

KeyState = Literal["active", "expired", "revoked"]
Label = Annotated[str, msgspec.Meta(max_length=MAX_LABEL_CHARACTERS, pattern=r"^[ -~]*\Z")]


class Pepper:
    """The platform's secret that keys are digested under: without it a stolen record says nothing of a key.

    Args:
        secret: at least 16 bytes.

    Attributes:
        fingerprint: public; tells two peppers apart.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.fingerprint = hmac.digest(secret, b"aloraserve key pepper", "sha256")[:4].hex()

    def digest(self, key: bytes) -> str:
        """Return what is kept of a key, in hex digits."""
        return hmac.digest(self._secret, key, "sha256").hex()


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """What is kept of a key.

    Args:
        id: public, part of the key.
        digest: see :meth:`Pepper.digest`.
        pepper: fingerprint of the pepper.
        roles: what it may do.
        label: what it is for.
        created_at: in seconds since 1970, as all times here.
        expires_at: when it ceases to be valid; None: never.
        revoked_at: when it was revoked; None: it was not.
    """

    id: str
    digest: str
    pepper: str
    roles: tuple[Role, ...]
    label: Label = ""
    created_at: float = 0.0
    expires_at: float | None = None
    revoked_at: float | None = None

    def state(self, now: float) -> KeyState:
        """Return whether the key is valid at a time, and why not."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


class NewKey(NamedTuple):
    """A key that was just made: the only time that it is there to be shown.

    Args:
        text: the key.
        record: what is kept of it.
        tenant: whose it is, None without one.
    """

    text: str
    record: KeyRecord
    tenant: str | None


class KnownKey(NamedTuple):
    """What is kept of a key, and whose it is.

    Args:
        record: what is kept.
        tenant: whose it is, None without one.
    """

    record: KeyRecord
    tenant: str | None


def make_key(
    pepper: Pepper,
    tenant: str | None,
    roles: tuple[Role, ...],
    *,
    created_at: float,
    label: str = "",
    expires_at: float | None = None,
) -> NewKey:
    """Return a random key of 256 bits.

    Args:
        pepper: of the platform.
        tenant: whose it is, None without one.
        roles: what it may do.
        created_at: now, in seconds since 1970.
        label: what it is for.
        expires_at: when it ceases to be valid; None: never.
    """
    key_id = secrets.token_hex(ID_DIGITS // 2)
    text = f"{PREFIX}{key_id}-{secrets.token_urlsafe(SECRET_BYTES)}"
    record = KeyRecord(
        id=key_id,
        digest=pepper.digest(text.encode()),
        pepper=pepper.fingerprint,
        roles=roles,
        label=label,
        created_at=created_at,
        expires_at=expires_at,
    )
    return NewKey(text, record, tenant)


def id_in(key: bytes) -> str | None:
    """Return the public id of what may be a key of the platform's, None if it is not one by its form."""
    found = _KEY.fullmatch(key)
    return None if found is None else found[1].decode()
