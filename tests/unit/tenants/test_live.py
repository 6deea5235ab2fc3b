"""Live tenants on an address of this machine, beside keys of the settings; the pepper's file."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from aloraserve.errors import AuthenticationError, InvalidRequestError, SettingsError
from aloraserve.tenants import Role, StaticTenants
from aloraserve.tenants.keys import Pepper, id_in
from aloraserve.tenants.live import LiveTenants
from aloraserve.tenants.manager import TenantManager
from aloraserve.tenants.pepper import read_pepper
from aloraserve.tenants.store import MemoryTenantStore, TenantBackup

PEPPER = Pepper(b"0123456789abcdef")
STATIC = "static-key-0123456789"


def tenants(static: StaticTenants | None = None) -> tuple[LiveTenants, TenantManager]:
    store = MemoryTenantStore()
    live = LiveTenants(store, static or StaticTenants({}), PEPPER)
    return live, TenantManager(store, live.view, PEPPER, on_change=live.catch_up)


async def test_the_first_key_closes_a_platform_and_revoking_it_does_not_open_it() -> None:
    live, manager = tenants()
    assert live.is_open
    assert live.authenticate(None, Role.ADMIN).is_admin
    new = await manager.create_key(None, [Role.ADMIN])
    for _ in range(2):
        assert not live.is_open
        for role in (None, *Role):
            with pytest.raises(AuthenticationError):
                live.authenticate(None, role)
        await manager.revoke_key(new.record.id)


async def test_limits_alone_close_nothing() -> None:
    live, manager = tenants()
    await manager.set_limits("acme", {"concurrency": 1})
    assert live.is_open


async def test_keys_of_the_settings_are_valid_beside_made_ones_and_have_the_tenant_s_limits() -> None:
    live, manager = tenants(StaticTenants({"acme": SecretStr(STATIC)}))
    new = await manager.create_key("other", [Role.INVOKE])
    await manager.set_limits("acme", {"concurrency": 3})
    acme = live.authenticate(f"Bearer {STATIC}")
    assert (acme.tenant, acme.key_id, acme.limits.concurrency) == ("acme", None, 3)
    assert live.authenticate(f"Bearer {new.text}").tenant == "other"
    assert [live.knows(name) for name in ("acme", "other", "nobody")] == [True, True, False]


@pytest.mark.parametrize(
    "spoil", [str.upper, lambda key: key[:-1], lambda key: key + "A", lambda key: key.replace("-", "_")]
)
async def test_a_key_that_is_not_exactly_it_is_not_known(spoil: Callable[[str], str]) -> None:
    live, manager = tenants()
    new = await manager.create_key("acme", [Role.INVOKE])
    with pytest.raises(AuthenticationError) as caught:
        live.authenticate(f"Bearer {spoil(new.text)}")
    assert caught.value.message == "the API key is not known"


async def test_a_known_id_with_another_secret_is_not_known() -> None:
    live, manager = tenants()
    new = await manager.create_key("acme", [Role.INVOKE])
    forged = new.text[:-43] + "A" * 43
    assert id_in(forged.encode()) == new.record.id
    with pytest.raises(AuthenticationError):
        live.authenticate(f"Bearer {forged}")


@pytest.mark.parametrize(
    ("tenant", "roles", "fault"),
    [
        ("A/b", [Role.INVOKE], "tenant is 'A/b'; 1 to 64 of a-z"),
        ("@platform", [Role.ADMIN], "tenant is '@platform'"),
        ("acme", [], "roles is empty; accepted are invoke, adapters, admin"),
        (None, [Role.INVOKE], "roles is invoke without a tenant"),
        (None, [Role.ADMIN, Role.ADAPTERS], "roles is adapters, admin without a tenant"),
    ],
)
async def test_what_is_not_accepted_is_named(tenant: str | None, roles: list[Role], fault: str) -> None:
    _, manager = tenants()
    with pytest.raises(InvalidRequestError, match=fault):
        await manager.create_key(tenant, roles)
    assert await manager.list() == []


@pytest.mark.parametrize("changes", [{"concurrency": 0}, {"weight": 0}, {"tokens_per_minute": "x"}, {"nothing": 1}])
async def test_limits_that_are_not_accepted_change_nothing(changes: dict[str, object]) -> None:
    _, manager = tenants()
    with pytest.raises(InvalidRequestError, match="the limits are not accepted"):
        await manager.set_limits("acme", changes)
    assert await manager.list() == []


def test_a_copy_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "tenants.json"
    for content in (b"", b"{}", b"\xff", b'{"format":"aloraserve-tenants","schema":2}'):
        path.write_bytes(content)
        assert TenantBackup(path, "fleet").read() is None


class TestPepper:
    def test_it_is_made_once_for_its_owner_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "state" / "key-pepper"
        pepper = read_pepper(path, is_given=False)
        assert path.stat().st_mode & 0o777 == 0o600
        assert read_pepper(path, is_given=False).fingerprint == pepper.fingerprint
        assert [each.name for each in path.parent.iterdir()] == ["key-pepper"]

    def test_processes_that_make_it_at_once_have_the_same(self, tmp_path: Path) -> None:
        with multiprocessing.get_context("fork").Pool(4) as pool:
            found = pool.map(_fingerprint, [tmp_path / "key-pepper"] * 16)
        assert len(set(found)) == 1

    def test_one_that_is_given_is_not_made(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="cannot be read: No such file"):
            read_pepper(tmp_path / "absent", is_given=True)

    @pytest.mark.parametrize(("mode", "is_given"), [(0o644, True), (0o604, True), (0o640, False)])
    def test_one_that_others_can_read_is_refused(self, tmp_path: Path, mode: int, is_given: bool) -> None:
        path = tmp_path / "key-pepper"
        path.write_text("0123456789abcdef")
        path.chmod(mode)
        with pytest.raises(SettingsError, match="can be read by others"):
            read_pepper(path, is_given=is_given)

    def test_a_short_one_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "key-pepper"
        path.touch(0o600)
        path.write_text("short\n")
        with pytest.raises(SettingsError, match="has 5 bytes; 16 to 4096"):
            read_pepper(path, is_given=True)


def _fingerprint(path: Path) -> str:
    return read_pepper(path, is_given=False).fingerprint
