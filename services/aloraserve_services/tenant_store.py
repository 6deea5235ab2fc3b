"""The fleet's tenants as its processes open them."""

from __future__ import annotations

from aloraserve.blocks import KeySpace
from aloraserve.records.redis import RedisStore, open_client
from aloraserve.settings import Settings
from aloraserve.tenants import StaticTenants
from aloraserve.tenants.live import LiveTenants
from aloraserve.tenants.manager import TenantManager
from aloraserve.tenants.pepper import read_pepper
from aloraserve.tenants.shared_prefix import PrefixBackup, SharedPrefixes, prefix_kind
from aloraserve.tenants.store import RedisTenantStore, TenantBackup, TenantStore


class FleetTenants:
    """A process's tenants, and what changes them.

    Attributes:
        live: know who may call.
        manager: makes, rotates and revokes keys.

    Args:
        settings: of the fleet, with a Redis.
        store: None: the one in that Redis.
        keeps_copy: whether this process has a copy on the disk.

    Raises:
        SettingsError: the pepper's file cannot be used.
    """

    def __init__(self, settings: Settings, store: TenantStore | None = None, *, keeps_copy: bool = True) -> None:
        store = store or RedisTenantStore.from_url(settings.redis_address, namespace=settings.namespace)
        static = StaticTenants(settings.api_keys, settings.admin_keys, is_public=settings.is_public)
        pepper = read_pepper(settings.pepper_path, is_given=settings.key_pepper_file is not None)
        backup = TenantBackup(settings.state_dir / f"tenants-{settings.namespace}.json", settings.namespace)
        self.live = LiveTenants(store, static, pepper, backup=backup if keeps_copy else None)
        self.manager = TenantManager(store, self.live.view, pepper, on_change=self.live.catch_up)


def open_prefixes(settings: Settings, keyspace: KeySpace) -> SharedPrefixes:
    """Return the prefixes that the fleet's tenants share."""
    kind = prefix_kind()
    store = RedisStore(open_client(kind, settings.redis_address), kind, namespace=settings.namespace)
    backup = PrefixBackup(settings.state_dir / f"prefixes-{settings.namespace}.json", settings.namespace)
    return SharedPrefixes(store, keyspace, backup=backup)
