"""All that is kept of a tenant: the unit that changes in one step. Nothing here does I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import msgspec

from aloraserve.errors import TenantChangedError, TenantConflictError
from aloraserve.records import RecordKind
from aloraserve.tenants.keys import KeyRecord
from aloraserve.tenants.limits import NO_LIMITS, TenantLimits
from aloraserve.tenants.names import is_name

MAX_TENANTS = 1024
MAX_DELETED_TENANTS = 16_384
"""Names that are not given out again; the oldest are forgotten."""
MAX_KEYS = 64
"""Of a tenant, those that are not valid any more included."""
MAX_RECORD_BYTES = 1 << 16
PLATFORM = "@platform"
"""Name of the record of the keys that belong to no tenant; no tenant may have it."""


class TenantRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A tenant. Every method that changes something returns another record.

    Args:
        name: of the tenant, or :data:`PLATFORM`.
        limits: over all gateways.
        keys: in the order in which they were made.
        created_at: in seconds since 1970.
        deleted_at: likewise; None: it is not.
    """

    name: str
    limits: TenantLimits = NO_LIMITS
    keys: tuple[KeyRecord, ...] = ()
    created_at: float = 0.0
    deleted_at: float | None = None

    @property
    def is_deleted(self) -> bool:
        """Whether nothing but the name is left."""
        return self.deleted_at is not None

    @property
    def tenant(self) -> str | None:
        """The tenant's name, None for the record of keys without one."""
        return None if self.name == PLATFORM else self.name

    def with_key(self, key: KeyRecord, now: float) -> Self:
        """Return the record with one more key; the oldest that is not valid any more makes room.

        Raises:
            TenantConflictError: there is no room.
        """
        keys = list(self.keys)
        if len(keys) >= MAX_KEYS:
            gone = next((old for old in keys if old.state(now) != "active"), None)
            if gone is None:
                raise TenantConflictError(
                    f"there are {MAX_KEYS} valid keys, the most that are accepted; revoke one first"
                )
            keys.remove(gone)
        return msgspec.structs.replace(self, keys=(*keys, key))

    def with_changed(self, key_id: str, change: Callable[[KeyRecord], KeyRecord]) -> Self:
        """Return the record with one key changed."""
        keys = tuple(change(key) if key.id == key_id else key for key in self.keys)
        return msgspec.structs.replace(self, keys=keys)

    def with_limits(self, limits: TenantLimits) -> Self:
        """Return the record with other limits."""
        return msgspec.structs.replace(self, limits=limits)

    def key(self, key_id: str) -> KeyRecord | None:
        """Return a key, None if it has none of that id."""
        return next((key for key in self.keys if key.id == key_id), None)


def tenant_kind(max_names: int = MAX_TENANTS + 1, max_deleted: int = MAX_DELETED_TENANTS) -> RecordKind[TenantRecord]:
    """Return what makes a store one of tenants.

    Args:
        max_names: that are not deleted; :data:`PLATFORM` is one.
        max_deleted: names that are.
    """
    return RecordKind(
        label="tenants",
        part="tenants' store",
        key="tenants1",
        encode=_encoded,
        decode=_decoded,
        changed=_changed_meanwhile,
        full=_store_full,
        max_names=max_names,
        max_deleted=max_deleted,
    )


_DECODER = msgspec.json.Decoder(TenantRecord)


def _encoded(record: TenantRecord) -> bytes:
    content = msgspec.json.encode(record)
    if len(content) > MAX_RECORD_BYTES:
        raise TenantConflictError(f"the record needs {len(content)} bytes; {MAX_RECORD_BYTES} are accepted")
    return content


def _decoded(content: bytes) -> TenantRecord:
    record = _DECODER.decode(content)
    check_tenant(record)
    return record


def check_tenant(record: TenantRecord) -> None:
    """Raise ValueError if a record that was read is not one that this release would write."""
    if record.tenant is not None and not is_name(record.tenant):
        raise ValueError(f"{record.name[:80]!r} is not a name")
    if len(record.keys) > MAX_KEYS:
        raise ValueError(f"{len(record.keys)} keys")


def _changed_meanwhile(name: str) -> TenantChangedError:
    return TenantChangedError(f"tenant {name!r} was changed by another call meanwhile; look at it and try again")


def _store_full(most: int) -> TenantConflictError:
    return TenantConflictError(f"there are {most - 1} tenants, the most that are accepted; delete some first")
