"""The whole platform on one machine: Redis, Ray, engines and gateway, started and stopped together."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from aloraserve.errors import DirectoryUnavailableError, KeySpaceMismatchError, PartLostError, StartError
from aloraserve.settings import SECRETS, Settings
from aloraserve.settings.variables import hidden_variables
from aloraserve_services.http_server.tls_files import TlsFiles
from aloraserve_services.local.address import authorization, base_url, check_ports
from aloraserve_services.local.deployment import Progress, deploy, drain
from aloraserve_services.local.processes import adopt_orphans, end_descendants, signals_ignored
from aloraserve_services.local.ray_session import lost_part, ray_session
from aloraserve_services.local.redis_server import EmbeddedRedis, embedded_redis, given_redis
from aloraserve_services.local.surroundings import check_limits, own_environment
from aloraserve_services.local.usage_keeper import UsageKeeper, usage_kept
from aloraserve_services.local.watchdog import watched
from aloraserve_services.models.model_files import SMOLLM2_ALIASES
from aloraserve_services.plan import FleetPlan, make_plan, require_engine
from aloraserve_services.ray_authentication import refuse_open_ray


@dataclass(frozen=True, slots=True)
class LocalPlatform:
    """A running platform.

    Args:
        plan: of its fleet, with the URL of its Redis.
        redis: the embedded server, None where the settings name one.
        usage: keeps tenants' use beside it, None where nobody has to.
        progress: called with what happens, in short sentences.
    """

    plan: FleetPlan
    redis: EmbeddedRedis | None
    usage: UsageKeeper | None
    progress: Progress

    @property
    def settings(self) -> Settings:
        """Settings of what runs."""
        return self.plan.settings

    @property
    def url(self) -> str:
        """Address of the HTTP API."""
        return base_url(self.settings)

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the platform's own calls, with a tenant's key if there are any."""
        return authorization(self.settings)

    def check(self) -> bool:
        """Mend what can be mended without a new start; call it every second or so.

        Returns:
            Whether the embedded Redis server had ended, and was started again.

        Raises:
            PartLostError: a part has ended that only a new start brings back.
        """
        if (part := lost_part()) is not None:
            raise PartLostError(f"{part} has ended, which nothing but a new start brings back")
        is_healed = self.redis is not None and self.redis.heal()
        if self.usage is not None:
            self.usage.emptied() if is_healed else self.usage.keep()
        if not is_healed:
            return False
        join_fleet(self.plan)
        self.progress("the embedded Redis server had ended and was started again, empty")
        return True

    def drain(self) -> None:
        """Take no more calls, and return once those in progress have ended or their time is over."""
        drain(self.settings)


@contextlib.contextmanager
def local_platform(
    settings: Settings,
    *,
    adapters_dir: Callable[[Path], Path | None] | None = None,
    keeps_usage: bool = False,
    progress: Progress,
) -> Iterator[LocalPlatform]:
    """Run the platform for the time of the context; yield it once every replica takes calls.

    Args:
        settings: what to run.
        adapters_dir: makes an adapters folder for the model's folder, if the settings name none; None for no adapters.
        keeps_usage: whether tenants' use outlives an embedded Redis; the state folder is this platform's alone then.
        progress: called with what happens, in short sentences.

    Raises:
        SettingsError: the model, the adapters' folder or the TLS files are not there, or the environment turns Ray's
            authentication off.
        StartError: a port is taken, Redis does not answer, a fleet with another key space has its namespace, or a part
            does not start in time.
    """
    check_limits()
    check_ports(settings)
    TlsFiles.of(settings)
    require_engine(settings)
    refuse_open_ray()
    _quiet_libraries(settings)
    adopt_orphans()
    try:
        with contextlib.ExitStack() as stack:
            # What is started from here on gets the settings by another way, keys and passwords included.
            stack.enter_context(hidden_variables(SECRETS))
            stack.enter_context(own_environment(settings))
            stack.enter_context(watched())
            redis = None
            if address := settings.redis_address:
                url = stack.enter_context(given_redis(address, settings.namespace))
                progress("Redis answers")
            else:
                redis = stack.enter_context(embedded_redis())
                url = redis.url
                progress("embedded Redis started")
            for cell_url in settings.cell_redis_addresses:
                stack.enter_context(given_redis(cell_url, settings.namespace, "cell_redis_urls"))
            settings = _with_whole_paths(settings).model_copy(update={"redis_url": SecretStr(url)})
            plan = make_plan(settings, adapters_dir=adapters_dir, progress=progress)
            join_fleet(plan)
            usage = stack.enter_context(usage_kept(plan)) if keeps_usage and redis is not None else None
            stack.enter_context(ray_session(plan))
            progress("Ray started")
            deploy(plan, progress)
            yield LocalPlatform(plan, redis, usage, progress)
    finally:
        with signals_ignored():
            end_descendants()


def _with_whole_paths(settings: Settings) -> Settings:
    """Return settings whose paths mean the same in Ray's processes, which run in another folder."""
    paths = ("state_dir", "log_dir", "tls_certificate", "tls_key", "tls_client_ca")
    whole: dict[str, Any] = {name: path.absolute() for name in paths if (path := getattr(settings, name)) is not None}
    if Path(settings.calibration).is_file():
        whole["calibration"] = str(Path(settings.calibration).absolute())
    return settings.model_copy(update=whole)


def _quiet_libraries(settings: Settings) -> None:
    """Set what libraries read when they are imported: no hub for a local model, no bars without a terminal."""
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    if settings.model.lower() in SMOLLM2_ALIASES or Path(settings.model).expanduser().exists():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def join_fleet(plan: FleetPlan) -> None:
    """Report at once, rather than from each replica, that a fleet with another key space has this namespace."""

    async def join(cell: int) -> None:
        directory = plan.open_directory(cell)
        try:
            await directory.join(plan.keyspace)
        finally:
            await directory.close()

    try:
        for cell in range(plan.settings.cells):
            asyncio.run(join(cell))
    except KeySpaceMismatchError as error:
        raise StartError(error.message) from None
    except DirectoryUnavailableError as error:
        raise StartError(f"Redis does not take this fleet: {error.message}") from None
