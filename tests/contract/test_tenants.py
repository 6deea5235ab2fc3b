"""What every store of tenants does for keys, run against each backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from support.redis_fixtures import url_of
from support.redis_servers import OTHER_SERVERS

from aloraserve.errors import (
    AuthenticationError,
    DirectoryUnavailableError,
    NotPermittedError,
    TenantConflictError,
    UnknownKeyError,
    UnknownTenantError,
)
from aloraserve.records import RecordChanges, RecordPosition, StoredRecord
from aloraserve.tenants import Role, StaticTenants, TenantRecord
from aloraserve.tenants.keys import Pepper
from aloraserve.tenants.live import LiveTenants
from aloraserve.tenants.manager import TenantManager
from aloraserve.tenants.record import MAX_KEYS
from aloraserve.tenants.salts import cache_salt_of
from aloraserve.tenants.store import MemoryTenantStore, RedisTenantStore, TenantBackup, TenantStore

MakeStore = Callable[[], TenantStore]
PEPPER = Pepper(b"0123456789abcdef")


class Clock:
    """Seconds since 1970, as a test sets them."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class LosableStore:
    """A store whose server may go away."""

    def __init__(self, store: TenantStore) -> None:
        self.store = store
        self.is_gone = False

    async def get(self, name: str) -> StoredRecord[TenantRecord] | None:
        self._check()
        return await self.store.get(name)

    async def put(self, record: TenantRecord, *, expected: int) -> int:
        self._check()
        return await self.store.put(record, expected=expected)

    async def changes(self, since: RecordPosition) -> RecordChanges[TenantRecord]:
        self._check()
        return await self.store.changes(since)

    async def close(self) -> None:
        await self.store.close()

    def _check(self) -> None:
        if self.is_gone:
            raise DirectoryUnavailableError("the tenants' store is gone")


class Gateway:
    """One gateway's tenants."""

    def __init__(self, store: TenantStore, clock: Clock, backup: Path | None = None, pepper: Pepper = PEPPER) -> None:
        self.store = LosableStore(store)
        self.live = LiveTenants(
            self.store,
            StaticTenants({}, is_public=True),
            pepper,
            backup=None if backup is None else TenantBackup(backup, "fleet"),
            clock=clock,
        )
        self.manager = TenantManager(self.store, self.live.view, pepper, on_change=self.live.catch_up, clock=clock)

    def tenant_of(self, key: str) -> str | None:
        return self.live.authenticate(f"Bearer {key}", None).tenant

    def knows(self, key: str) -> bool:
        try:
            self.live.authenticate(f"Bearer {key}", None)
        except AuthenticationError:
            return False
        return True


@pytest.fixture(params=["memory", "redis", "declared-keys", "cluster", *OTHER_SERVERS])
async def open_store(request: pytest.FixtureRequest) -> AsyncIterator[MakeStore]:
    url = None if request.param == "memory" else url_of(request, request.param)
    shared = MemoryTenantStore()
    async with AsyncExitStack() as stack:

        def build() -> TenantStore:
            if url is None:
                return shared
            store = RedisTenantStore.from_url(url, namespace=request.node.name, timeout_s=5.0)
            stack.push_async_callback(store.close)
            return store

        yield build


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gateways(open_store: MakeStore, clock: Clock) -> tuple[Gateway, Gateway]:
    return Gateway(open_store(), clock), Gateway(open_store(), clock)


async def test_a_key_made_at_one_gateway_is_valid_at_the_other(gateways: tuple[Gateway, Gateway]) -> None:
    one, other = gateways
    new = await one.manager.create_key("acme", [Role.INVOKE, Role.ADAPTERS], label="ci")
    assert not other.knows(new.text)
    await other.live.look()
    for gateway in gateways:
        caller = gateway.live.authenticate(f"Bearer {new.text}")
        assert (caller.tenant, caller.key_id) == ("acme", new.record.id)
        assert caller.cache_salt == cache_salt_of("acme")
        assert caller.roles == {Role.INVOKE, Role.ADAPTERS}
        with pytest.raises(NotPermittedError, match="the role admin; this key's roles: adapters, invoke"):
            gateway.live.authenticate(f"Bearer {new.text}", Role.ADMIN)


async def test_a_rotated_key_is_valid_for_its_grace_time(gateways: tuple[Gateway, Gateway], clock: Clock) -> None:
    one, other = gateways
    old = await one.manager.create_key("acme", [Role.INVOKE], label="app")
    new = await other.manager.rotate_key(old.record.id, grace_s=60)
    assert (new.record.roles, new.record.label) == (old.record.roles, "app")
    await one.live.look()
    clock.now += 59
    assert [gateway.tenant_of(key.text) for gateway in gateways for key in (old, new)] == ["acme"] * 4
    clock.now += 1
    assert [gateway.knows(old.text) for gateway in gateways] == [False, False]
    assert [gateway.tenant_of(new.text) for gateway in gateways] == ["acme", "acme"]
    with pytest.raises(UnknownKeyError, match="is expired"):
        await one.manager.rotate_key(old.record.id)


async def test_a_revoked_key_is_valid_nowhere_and_stays_listed(gateways: tuple[Gateway, Gateway]) -> None:
    one, other = gateways
    new = await one.manager.create_key("acme", [Role.INVOKE])
    await other.live.look()
    await other.manager.revoke_key(new.record.id)
    await one.live.look()
    assert [gateway.knows(new.text) for gateway in gateways] == [False, False]
    [record] = await one.manager.list()
    assert [key.state(0.0) for key in record.keys] == ["revoked"]
    with pytest.raises(UnknownKeyError, match="no key with the id"):
        await one.manager.revoke_key("nobody")


async def test_a_key_expires_by_itself(gateways: tuple[Gateway, Gateway], clock: Clock) -> None:
    one, _ = gateways
    new = await one.manager.create_key(None, [Role.ADMIN], expires_in_s=10)
    assert one.live.authenticate(f"Bearer {new.text}", Role.ADMIN).tenant is None
    clock.now += 10
    assert not one.knows(new.text)


async def test_keys_that_are_made_at_once_are_all_valid(gateways: tuple[Gateway, Gateway]) -> None:
    one, other = gateways
    made = await asyncio.gather(
        *(gateway.manager.create_key("acme", [Role.INVOKE]) for gateway in (one, other, one, other))
    )
    for gateway in gateways:
        await gateway.live.look()
        assert [gateway.tenant_of(new.text) for new in made] == ["acme"] * 4


async def test_while_the_store_is_gone_known_keys_are_valid_and_no_others(gateways: tuple[Gateway, Gateway]) -> None:
    one, other = gateways
    known = await one.manager.create_key("acme", [Role.INVOKE])
    await other.live.look()
    other.store.is_gone = True
    later = await one.manager.create_key("acme", [Role.INVOKE])
    await other.live.look()
    assert (other.knows(known.text), other.knows(later.text)) == (True, False)
    with pytest.raises(DirectoryUnavailableError):
        await other.manager.revoke_key(known.record.id)
    assert other.knows(known.text)
    other.store.is_gone = False
    await other.live.look()
    assert other.knows(later.text)


async def test_lost_data_are_restored_and_revoked_keys_stay_revoked(
    gateways: tuple[Gateway, Gateway], clock: Clock
) -> None:
    one, _ = gateways
    kept, revoked = [await one.manager.create_key("acme", [Role.INVOKE]) for _ in range(2)]
    await one.manager.revoke_key(revoked.record.id)
    # Another store in its place has nothing of it.
    one.store.store = MemoryTenantStore()
    await one.live.look()
    fresh = Gateway(one.store.store, clock)
    await fresh.live.look()
    assert (fresh.knows(kept.text), fresh.knows(revoked.text)) == (True, False)


async def test_a_copy_on_disk_outlives_the_store(open_store: MakeStore, clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "tenants.json"
    one = Gateway(open_store(), clock, path)
    new = await one.manager.create_key("acme", [Role.INVOKE])
    await one.live.close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert new.text.split("-", 2)[2] not in path.read_text()
    later = Gateway(MemoryTenantStore(), clock, path)
    later.store.is_gone = True
    await later.live.begin()
    assert later.tenant_of(new.text) == "acme"


async def test_limits_come_with_the_caller_and_change_while_it_runs(gateways: tuple[Gateway, Gateway]) -> None:
    one, other = gateways
    new = await one.manager.create_key("acme", [Role.INVOKE])
    await one.manager.set_limits("acme", {"requests_per_minute": 60, "weight": 4})
    await other.manager.set_limits("acme", {"concurrency": 2, "weight": None})
    await one.live.look()
    limits = one.live.authenticate(f"Bearer {new.text}").limits
    assert (limits.requests_per_minute, limits.concurrency, limits.weight) == (60, 2, 1.0)


async def test_a_deleted_tenant_s_keys_are_valid_nowhere(gateways: tuple[Gateway, Gateway]) -> None:
    one, other = gateways
    new = await one.manager.create_key("acme", [Role.INVOKE])
    await other.live.look()
    await other.manager.delete_tenant("acme")
    await one.live.look()
    assert [gateway.knows(new.text) for gateway in gateways] == [False, False]
    assert not one.live.knows("acme")
    with pytest.raises(UnknownTenantError, match="no tenant 'acme'"):
        await one.manager.get("acme")


async def test_a_deleted_tenant_s_name_is_not_given_out_again(gateways: tuple[Gateway, Gateway]) -> None:
    """Whoever got it would read the other's usage and use its private adapters, and time its cached prompts."""
    one, other = gateways
    await one.manager.create_key("acme", [Role.INVOKE])
    await one.manager.delete_tenant("acme")
    for again in (other.manager.create_key("acme", [Role.INVOKE]), other.manager.set_limits("acme", {"weight": 2})):
        with pytest.raises(TenantConflictError, match="'acme' was deleted, and its name is not given out again"):
            await again
    assert await other.manager.list() == []


async def test_a_tenant_has_64_keys_at_most_and_dead_ones_make_room(gateways: tuple[Gateway, Gateway]) -> None:
    one, _ = gateways
    made = [await one.manager.create_key("acme", [Role.INVOKE]) for _ in range(MAX_KEYS)]
    with pytest.raises(TenantConflictError, match="there are 64 valid keys"):
        await one.manager.create_key("acme", [Role.INVOKE])
    await one.manager.revoke_key(made[7].record.id)
    new = await one.manager.create_key("acme", [Role.INVOKE])
    record = await one.manager.get("acme")
    assert len(record.keys) == MAX_KEYS
    assert one.knows(new.text)


async def test_another_pepper_makes_no_keys_and_knows_none(open_store: MakeStore, clock: Clock) -> None:
    one, stranger = Gateway(open_store(), clock), Gateway(open_store(), clock, pepper=Pepper(b"fedcba9876543210"))
    new = await one.manager.create_key("acme", [Role.INVOKE])
    await stranger.live.look()
    assert not stranger.knows(new.text)
    with pytest.raises(TenantConflictError, match="made with another pepper"):
        await stranger.manager.create_key("acme", [Role.INVOKE])


async def test_nothing_in_the_store_is_a_key(open_store: MakeStore, clock: Clock) -> None:
    store = open_store()
    new = await Gateway(store, clock).manager.create_key("acme", [Role.INVOKE])
    changes = await store.changes(RecordPosition())
    secret = new.text.split("-", 2)[2]
    assert secret not in repr(changes)
    assert new.record.digest in repr(changes)
