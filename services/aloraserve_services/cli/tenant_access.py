"""How commands reach a fleet's tenants: in its Redis, from a machine that may; no platform has to take calls."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aloraserve.errors import SettingsError, StartError
from aloraserve.settings import Settings
from aloraserve.tenants.manager import TenantManager
from aloraserve.tenants.store import RedisTenantStore
from aloraserve_services.local import run_file
from aloraserve_services.tenant_store import FleetTenants

T = TypeVar("T")
_DURATION = re.compile(r"([0-9]{1,6})(s|m|h|d)")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def with_manager(settings: Settings, ask: Callable[[TenantManager], Awaitable[T]]) -> T:
    """Return what the manager of a fleet's tenants answers.

    Raises:
        StartError: there is no Redis to look in.
        AloraserveError: what the manager raises.
    """
    url = settings.redis_address or _embedded(settings)

    async def asked() -> T:
        store = RedisTenantStore.from_url(url, namespace=settings.namespace)
        # Gateways keep the copies; this process may be another user's.
        tenants = FleetTenants(settings, store, keeps_copy=False)
        try:
            return await ask(tenants.manager)
        finally:
            await tenants.live.close()

    return asyncio.run(asked())


def seconds(text: str, option: str) -> float:
    """Return a duration such as 90d, 24h, 30m or 10s in seconds.

    Raises:
        SettingsError: it is not one; names the option.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise SettingsError(f"--{option} is {text[:20]!r}; a number with s, m, h or d is accepted, such as 90d or 24h")
    return float(int(match[1]) * _UNIT_S[match[2]])


def _embedded(settings: Settings) -> str:
    running = run_file.read(settings.state_dir)
    if running is None or not running.embedded_redis:
        raise StartError(
            f"redis_url is not set and no platform with an embedded Redis runs in {settings.state_dir}: start it, or "
            "name the fleet's Redis"
        )
    return running.embedded_redis
