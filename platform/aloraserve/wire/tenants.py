"""``/v1/admin/keys`` and ``/v1/admin/tenants``: bodies of requests, and how keys and tenants are shown."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from aloraserve.tenants import Role, TenantRecord
from aloraserve.tenants.keys import KeyRecord, Label
from aloraserve.tenants.manager import GRACE_S
from aloraserve.wire.fields import RequestPart

Name = Annotated[str, Meta(max_length=64)]


class KeyRequest(RequestPart, frozen=True, kw_only=True):
    """``POST /v1/admin/keys``: make a key."""

    tenant: Name | None = None
    roles: Annotated[list[Role], Meta(min_length=1, max_length=len(Role))]
    label: Label = ""
    expires_in_s: float | None = None


class RotationRequest(RequestPart, frozen=True, kw_only=True):
    """``POST /v1/admin/keys/{id}/rotate``: make a key in another's place, which stays valid for a grace time."""

    grace_s: float = GRACE_S


class LimitsRequest(RequestPart, frozen=True, kw_only=True):
    """``PATCH /v1/admin/tenants/{name}``: change some of a tenant's limits; null takes one away."""

    requests_per_minute: int | UnsetType | None = UNSET
    tokens_per_minute: int | UnsetType | None = UNSET
    uncached_tokens_per_minute: int | UnsetType | None = UNSET
    concurrency: int | UnsetType | None = UNSET
    weight: float | UnsetType | None = UNSET
    priority: int | UnsetType | None = UNSET

    @property
    def changes(self) -> dict[str, Any]:
        """What is to be changed, by name."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not UNSET}


def key_json(key: KeyRecord, tenant: str | None, now: float) -> dict[str, Any]:
    """Return what is shown of a key: not the key."""
    return {
        "id": key.id,
        "tenant": tenant,
        "roles": list(key.roles),
        "label": key.label,
        "state": key.state(now),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
    }


def tenant_json(record: TenantRecord, now: float) -> dict[str, Any]:
    """Return what is shown of a tenant."""
    keys = [key_json(key, record.tenant, now) for key in record.keys]
    return {
        "name": record.name,
        "limits": msgspec.structs.asdict(record.limits),
        "keys": keys,
        "created_at": record.created_at,
    }
