"""Opens connections that are logged in and on the right database; asks Sentinels who the primary is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from aloraserve.redis.credentials import Credentials, Login
from aloraserve.redis.line import Command, Line
from aloraserve.redis.url import Deployment, Host, RedisAddress, Tls


class Connector:
    """Opens the lines of one deployment.

    Args:
        address: where it is.
        timeout_s: the longest that opening a line takes, asking Sentinels included, and the lines' patience.
    """

    def __init__(self, address: RedisAddress, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s

    @property
    def credentials(self) -> Credentials:
        """For the servers."""
        return self._address.credentials

    async def open(self, host: Host | None = None) -> tuple[Line, Login | None]:
        """Return an open line and who it is logged in as.

        Args:
            host: of a cluster's server; else the server, or the one that Sentinels name, is found.

        Raises:
            RedisError: the server refuses.
            OSError: it cannot be reached, or not in time.
        """
        async with asyncio.timeout(self._timeout_s):
            if host is None:
                host = await self._primary()
            return await self._open(host, self.credentials, self._address.database)

    async def _open(self, host: Host, credentials: Credentials, database: int = 0) -> tuple[Line, Login | None]:
        # Files that hold secrets and certificates are read each time: who rotates them restarts nothing.
        login = await asyncio.to_thread(credentials.read) if credentials.may_change else credentials.read()
        line = await _connected(host, self._address.tls, self._timeout_s)
        commands: list[Command] = []
        if login is not None:
            commands.append(login.command)
        if database:
            commands.append(("SELECT", database))
        try:
            if commands:
                await self._ask(line, commands)
        except BaseException:
            line.close(RedisConnectionError("the server did not let the connection in"))
            raise
        return line, login

    async def _ask(self, line: Line, commands: Sequence[Command]) -> list[Any]:
        replies = await line.send(commands, asyncio.get_running_loop().time() + self._timeout_s)
        for reply in replies:
            if isinstance(reply, RedisError):
                raise reply
        return replies

    async def _primary(self) -> Host:
        hosts = self._address.hosts
        if self._address.deployment is not Deployment.SENTINEL:
            return hosts[0]
        causes = []
        for sentinel in random.sample(hosts, len(hosts)):
            try:
                # A Sentinel that hangs must leave time to ask another one.
                async with asyncio.timeout(self._timeout_s / (len(hosts) + 1)):
                    return await self._named_by(sentinel)
            except (RedisError, OSError) as error:
                causes.append(f"{sentinel}: {error or type(error).__name__}")
        raise RedisConnectionError(f"no Sentinel names the primary of {self._address.service!r} ({'; '.join(causes)})")

    async def _named_by(self, sentinel: Host) -> Host:
        line, _ = await self._open(sentinel, self._address.sentinel_credentials)
        try:
            command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.service)
            [found] = await self._ask(line, [command])
        finally:
            line.close(RedisConnectionError("asked"))
        if found is None:
            raise RedisConnectionError("it does not know the service")
        return Host(found[0].decode(), int(found[1]))


async def _connected(host: Host, tls: Tls | None, patience_s: float) -> Line:
    loop = asyncio.get_running_loop()
    if not host.port:
        _, line = await loop.create_unix_connection(lambda: Line(patience_s), host.name)
        return line
    context = await asyncio.to_thread(tls.context) if tls else None
    _, line = await loop.create_connection(lambda: Line(patience_s), host.name, host.port, ssl=context)
    return line
