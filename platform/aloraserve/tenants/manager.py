"""Makes, rotates and revokes keys, and sets tenants' limits; every change is one step of the store."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import msgspec

from aloraserve.errors import (
    InvalidRequestError,
    TenantChangedError,
    TenantConflictError,
    UnknownKeyError,
    UnknownTenantError,
)
from aloraserve.records import RecordView, StoredRecord
from aloraserve.records.editing import edit_record
from aloraserve.tenants.base import Role
from aloraserve.tenants.keys import KeyRecord, KnownKey, NewKey, Pepper, make_key
from aloraserve.tenants.limits import TenantLimits
from aloraserve.tenants.names import NAME_RULE, is_name
from aloraserve.tenants.record import PLATFORM, TenantRecord
from aloraserve.tenants.store import TenantStore

GRACE_S = 24 * 3600.0
MAX_EXPIRY_S = 10 * 366 * 24 * 3600.0


class TenantManager:
    """Changes a fleet's tenants.

    Args:
        store: of the fleet.
        view: of the store; the caller has it refreshed.
        pepper: of the platform.
        on_change: called after each change.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        store: TenantStore,
        view: RecordView[TenantRecord],
        pepper: Pepper,
        *,
        on_change: Callable[[], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._view = view
        self._pepper = pepper
        self._on_change = on_change
        self._clock = clock

    async def create_key(
        self, tenant: str | None, roles: Collection[Role], *, label: str = "", expires_in_s: float | None = None
    ) -> NewKey:
        """Return a new key; a tenant that is not there yet is made with its first one.

        Args:
            tenant: whose key it is, None for one that is an administrator's alone.
            roles: what it may do, at least one.
            label: what it is for.
            expires_in_s: how long it is valid; None: until it is revoked.

        Raises:
            InvalidRequestError: the tenant's name, the roles, the label or the time are not accepted.
            TenantConflictError: there are too many tenants or keys, other keys have another pepper, or the tenant was
                deleted.
            DirectoryUnavailableError: the store does not answer.
        """
        name, now = _record_name(tenant), self._clock()
        kept = tuple(sorted(set(roles)))
        _check_roles(tenant, kept)
        expires_at = None if expires_in_s is None else now + _checked_time(expires_in_s, "expires_in_s")
        await self._refresh()
        self._check_pepper()
        new = make_key(self._pepper, tenant, kept, created_at=now, label=label, expires_at=expires_at)
        await self._edit(name, lambda record: _live(record, name, now).with_key(new.record, now))
        return new

    async def rotate_key(self, key_id: str, *, grace_s: float = GRACE_S) -> NewKey:
        """Return a new key with the roles and the label of an old one, which stays valid for a grace time.

        The new one is valid for as long as the old one was to be.

        Args:
            key_id: public id of the old one.
            grace_s: for which the old one stays valid.

        Raises:
            UnknownKeyError: there is none, or it is not valid any more.
            InvalidRequestError: the time is not accepted.
            TenantConflictError: see :meth:`create_key`.
            DirectoryUnavailableError: the store does not answer.
        """
        _checked_time(grace_s, "grace_s", least=0)
        old, tenant = await self._found(key_id)
        now = self._clock()
        if old.state(now) != "active":
            raise UnknownKeyError(f"the key {key_id} is {old.state(now)}; make another one instead")
        self._check_pepper()
        lifetime = None if old.expires_at is None else old.expires_at - old.created_at
        expires_at = None if lifetime is None else now + lifetime
        new = make_key(self._pepper, tenant, old.roles, created_at=now, label=old.label, expires_at=expires_at)

        def rotated(record: TenantRecord | None) -> TenantRecord:
            aged = _having(record, key_id).with_changed(key_id, lambda key: _ending(key, now + grace_s))
            return aged.with_key(new.record, now)

        await self._edit(_record_name(tenant), rotated)
        return new

    async def revoke_key(self, key_id: str) -> KnownKey:
        """Have a key be valid no more, within two seconds at every gateway that the store reaches.

        Raises:
            UnknownKeyError: there is none.
            DirectoryUnavailableError: the store does not answer.
        """
        _, tenant = await self._found(key_id)
        now = self._clock()

        def revoked(record: TenantRecord | None) -> TenantRecord:
            return _having(record, key_id).with_changed(key_id, lambda key: _revoked(key, now))

        record = await self._edit(_record_name(tenant), revoked)
        found = record.key(key_id)
        assert found is not None, "it was just changed"
        return KnownKey(found, tenant)

    async def set_limits(self, tenant: str, changes: Mapping[str, Any]) -> TenantRecord:
        """Change some of a tenant's limits; a tenant that is not there yet is made.

        Args:
            tenant: its name.
            changes: by field of :class:`TenantLimits`; None: no limit, or the default.

        Raises:
            InvalidRequestError: the name or a value is not accepted.
            TenantConflictError: there are too many tenants, or this one was deleted.
            DirectoryUnavailableError: the store does not answer.
        """
        name, now = _tenant_name(tenant), self._clock()

        def changed(record: TenantRecord | None) -> TenantRecord:
            live = _live(record, name, now)
            return live.with_limits(_limits(live.limits, changes))

        return await self._edit(name, changed)

    async def delete_tenant(self, tenant: str) -> None:
        """Delete a tenant with its keys, for good: nobody else is given its name, nor sees its private adapters.

        Raises:
            UnknownTenantError: there is none.
            DirectoryUnavailableError: the store does not answer.
        """
        now = self._clock()

        def deleted(record: TenantRecord | None) -> TenantRecord:
            if record is None or record.is_deleted:
                raise _unknown(tenant)
            return TenantRecord(name=record.name, created_at=record.created_at, deleted_at=now)

        await self._edit(_tenant_name(tenant), deleted)

    async def list(self) -> list[TenantRecord]:
        """Return all tenants that are not deleted, by name; the record of keys without a tenant among them.

        Raises:
            DirectoryUnavailableError: the store does not answer.
        """
        await self._refresh()
        return [stored.record for stored in self._view if not stored.record.is_deleted]

    async def get(self, tenant: str) -> TenantRecord:
        """Return a tenant.

        Raises:
            UnknownTenantError: there is none.
            DirectoryUnavailableError: the store does not answer.
        """
        await self._refresh()
        stored = self._view.get(_tenant_name(tenant))
        if stored is None or stored.record.is_deleted:
            raise _unknown(tenant)
        return stored.record

    async def _edit(self, name: str, change: Callable[[TenantRecord | None], TenantRecord]) -> TenantRecord:
        stored: StoredRecord[TenantRecord] = await edit_record(self._store, name, change, lost=TenantChangedError)
        self._view.take(*stored)
        if self._on_change is not None:
            await self._on_change()
        return stored.record

    async def _refresh(self) -> None:
        if await self._view.refresh() and self._on_change is not None:
            await self._on_change()

    async def _found(self, key_id: str) -> KnownKey:
        await self._refresh()
        for stored in self._view:
            if (key := stored.record.key(key_id)) is not None:
                return KnownKey(key, stored.record.tenant)
        raise _no_key(key_id)

    def _check_pepper(self) -> None:
        now, own = self._clock(), self._pepper.fingerprint
        keys = (key for stored in self._view for key in stored.record.keys)
        other = next((key for key in keys if key.pepper != own and key.state(now) == "active"), None)
        if other is not None:
            raise TenantConflictError(
                f"the key {other.id} was made with another pepper than this machine has; give all machines the same "
                "key_pepper_file, or revoke the keys of the lost one"
            )


def _record_name(tenant: str | None) -> str:
    return PLATFORM if tenant is None else _tenant_name(tenant)


def _tenant_name(tenant: str) -> str:
    if not is_name(tenant):
        raise InvalidRequestError(f"tenant is {tenant[:80]!r}; {NAME_RULE} are accepted", param="tenant")
    return tenant


def _check_roles(tenant: str | None, roles: tuple[Role, ...]) -> None:
    if not roles:
        raise InvalidRequestError(f"roles is empty; accepted are {', '.join(Role)}", param="roles")
    if tenant is None and roles != (Role.ADMIN,):
        raise InvalidRequestError(
            f"roles is {', '.join(roles)} without a tenant; only admin is accepted there", param="roles"
        )


def _checked_time(seconds: float, name: str, *, least: float = 1) -> float:
    if not least <= seconds <= MAX_EXPIRY_S:
        raise InvalidRequestError(f"{name} is {seconds:g}; {least:g} to {MAX_EXPIRY_S:.0f} are accepted", param=name)
    return seconds


def _live(record: TenantRecord | None, name: str, now: float) -> TenantRecord:
    """Return the record of a tenant that is there, or that is made now.

    Raises:
        TenantConflictError: it was deleted: whoever got its name would get its adapters, its usage and the salt of its
            prompts.
    """
    if record is None:
        return TenantRecord(name=name, created_at=now)
    if record.is_deleted:
        raise TenantConflictError(
            f"the tenant {name!r} was deleted, and its name is not given out again; choose another"
        )
    return record


def _having(record: TenantRecord | None, key_id: str) -> TenantRecord:
    if record is None or record.key(key_id) is None:
        raise _no_key(key_id)
    return record


def _no_key(key_id: str) -> UnknownKeyError:
    return UnknownKeyError(f"there is no key with the id {key_id[:40]!r}")


def _unknown(tenant: str) -> UnknownTenantError:
    return UnknownTenantError(f"there is no tenant {tenant[:80]!r}")


def _ending(key: KeyRecord, at: float) -> KeyRecord:
    ends = at if key.expires_at is None else min(at, key.expires_at)
    return msgspec.structs.replace(key, expires_at=ends)


def _revoked(key: KeyRecord, at: float) -> KeyRecord:
    return key if key.revoked_at is not None else msgspec.structs.replace(key, revoked_at=at)


def _limits(limits: TenantLimits, changes: Mapping[str, Any]) -> TenantLimits:
    """Return limits with changes, checked."""
    chosen = {name: value for name, value in changes.items() if value is not None}
    kept = {name: value for name, value in msgspec.structs.asdict(limits).items() if name not in changes}
    try:
        return msgspec.convert(kept | chosen, TenantLimits)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"the limits are not accepted: {error}") from None
