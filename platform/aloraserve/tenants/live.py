"""Tenants whose keys change while the platform runs, beside those of the settings."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from aloraserve.errors import AuthenticationError
from aloraserve.records import RecordView, StoredRecord
from aloraserve.tenants.base import Caller, Role
from aloraserve.tenants.keys import KeyRecord, Pepper, id_in
from aloraserve.tenants.record import TenantRecord
from aloraserve.tenants.salts import cache_salt_of
from aloraserve.tenants.static import StaticTenants, key_in, permitted
from aloraserve.tenants.store import TenantBackup, TenantStore

POLL_S = 0.5
_NOBODY_S = "0" * 64

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Holder:
    key: KeyRecord
    caller: Caller


class LiveTenants:
    """See :class:`~aloraserve.tenants.base.Tenants`. For one event loop.

    Callers are known in memory; the store is followed in the background. While it does not answer, the keys that are
    known go on being valid until they expire, and no others become so.

    Args:
        store: of the fleet; closed by :meth:`close`.
        static: callers of the settings.
        pepper: of the platform.
        backup: file that outlives a store that loses its data; None for a process that keeps none.
        poll_s: seconds between looks at the store.
        clock: seconds since 1970.

    Attributes:
        view: of the store.
    """

    def __init__(
        self,
        store: TenantStore,
        static: StaticTenants,
        pepper: Pepper,
        *,
        backup: TenantBackup | None = None,
        poll_s: float = POLL_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.view: RecordView[TenantRecord] = RecordView(store, "tenants", restores=True)
        self._store = store
        self._static = static
        self._pepper = pepper
        self._backup = backup
        self._poll_s = poll_s
        self._clock = clock
        self._generation = -1
        self._records: dict[str, StoredRecord[TenantRecord]] = {}
        self._holders: dict[str, _Holder] = {}
        self._has_warned = False
        self._has_keys = False

    def authenticate(self, authorization: str | None, role: Role | None = Role.INVOKE) -> Caller:
        """See the contract."""
        if not self._has_keys and (anyone := self._static.anyone(role)) is not None:
            return anyone
        caller = self._find(key_in(authorization))
        if caller is None:
            raise AuthenticationError("the API key is not known")
        return permitted(caller, role)

    @property
    def is_open(self) -> bool:
        """Whether anybody on this machine may do everything, because there are no keys."""
        return not self._has_keys and self._static.is_open

    def knows(self, tenant: str) -> bool:
        """Whether there is a tenant of that name."""
        stored = self._records.get(tenant)
        return self._static.knows(tenant) or (stored is not None and not stored.record.is_deleted)

    async def begin(self) -> None:
        """Read the store; what an earlier run knew is valid while it does not answer."""
        if self._backup is not None and (file := await asyncio.to_thread(self._backup.read)) is not None:
            self.view.adopt(file.stored, file.position)
        await self.look()

    async def look(self) -> None:
        """Look at the store now."""
        await self.view.look()
        await self.catch_up()

    async def run(self) -> None:
        """Follow the store until cancelled."""
        while True:
            await asyncio.sleep(self._poll_s)
            await self.look()

    async def catch_up(self) -> None:
        """Know whom the view has by now."""
        self._take()
        if self._backup is not None and len(self.view):
            await self._backup.write(self.view)

    async def close(self) -> None:
        """Write the copy and release the store."""
        if self._backup is not None and len(self.view):
            await self._backup.write(self.view, at_once=True)
        await self._store.close()

    def _find(self, key: bytes) -> Caller | None:
        key_id = id_in(key)
        if key_id is None:
            caller = self._static.find(key)
            return caller if caller is None or caller.tenant is None else self._limited(caller, caller.tenant)
        holder = self._holders.get(key_id)
        # An unknown id takes as long as a wrong key.
        fits = hmac.compare_digest(self._pepper.digest(key), _NOBODY_S if holder is None else holder.key.digest)
        return holder.caller if holder and fits and holder.key.state(self._clock()) == "active" else None

    def _limited(self, caller: Caller, tenant: str) -> Caller:
        stored = self._records.get(tenant)
        return caller if stored is None or stored.record.is_deleted else replace(caller, limits=stored.record.limits)

    def _take(self) -> None:
        if self._generation == self.view.generation:
            return
        self._generation = self.view.generation
        known = {stored.record.name: stored for stored in self.view}
        for name in self._records.keys() | known.keys():
            if self._records.get(name) is not known.get(name):
                self._index(self._records.get(name), known.get(name))
        self._records = known
        # Also keys that are not valid any more: who revokes the last one does not open the platform to everybody.
        self._has_keys = any(stored.record.keys or stored.record.is_deleted for stored in known.values())

    def _index(self, old: StoredRecord[TenantRecord] | None, new: StoredRecord[TenantRecord] | None) -> None:
        for key in () if old is None else old.record.keys:
            self._holders.pop(key.id, None)
        if new is None or new.record.is_deleted:
            return
        tenant = new.record.tenant
        for key in new.record.keys:
            caller = Caller(tenant, frozenset(key.roles), cache_salt_of(tenant), key.id, new.record.limits)
            self._holders[key.id] = _Holder(key, caller)
            if key.pepper != self._pepper.fingerprint and not self._has_warned:
                self._has_warned = True
                log.warning("key_pepper_differs", key_id=key.id, setting="key_pepper_file")
