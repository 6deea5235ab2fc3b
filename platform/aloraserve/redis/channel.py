"""Scripts on one server over one connection, any number under way at once.

A client that lends a connection to each command and reads its reply in tasks and under timers takes three times the
processor's time (ADR 0014).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError

from aloraserve.redis.backoff import Backoff
from aloraserve.redis.connect import Connector
from aloraserve.redis.credentials import Login
from aloraserve.redis.line import CLOSED, Command, Line
from aloraserve.redis.replies import is_unfit
from aloraserve.redis.scripts import ScriptCall
from aloraserve.redis.url import Host

LOGIN_CHECKED_S = 1.0
"""How often a login that may change is looked at."""

log = structlog.get_logger(__name__)


class RedisChannel:
    """See :class:`~aloraserve.redis.scripts.ScriptRunner`. Connects when first used, and again after a loss.

    What may have reached the server is never sent again.

    Args:
        connector: opens the connections.
        timeout_s: the longest that :meth:`run` takes.
        max_calls: how many may be under way, those that nobody waits for any more included; more wait, within
            ``timeout_s``.
        host: of a cluster's server, None where the connector knows which one.
    """

    def __init__(self, connector: Connector, *, timeout_s: float, max_calls: int, host: Host | None = None) -> None:
        self._connector = connector
        self._timeout_s = timeout_s
        self._host = host
        self._admitted = asyncio.Semaphore(max_calls)
        self._backoff = Backoff()
        self._is_closed = False
        self._line: Line | None = None
        self._opening: asyncio.Task[Line] | None = None
        self._following: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no call is under way."""
        return self._opening is None and (self._line is None or self._line.is_idle)

    async def run(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """See the contract; the scripts run in their order, others' perhaps between them."""
        if not calls:
            return []
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        replies = await self.exchange([call.by_digest() for call in calls], deadline)
        for index, reply in enumerate(replies):
            if isinstance(reply, NoScriptError):
                [replies[index]] = await self.exchange([calls[index].by_source()], deadline)
        for reply in replies:
            if isinstance(reply, RedisError):
                raise reply
        return replies

    async def exchange(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        """Return the replies of commands that are sent in one write; those that are errors are among them.

        Args:
            commands: to be sent once at most.
            deadline: on the loop's clock.

        Raises:
            TimeoutError: the replies were not there in time.
            RedisError: the server cannot be reached or was lost.
            OSError: the same.
        """
        if self._admitted.locked():
            async with asyncio.timeout_at(deadline):
                await self._admitted.acquire()
        else:
            await self._admitted.acquire()
        try:
            line = self._line
            if line is None or not line.is_open:
                line = await self._opened(deadline)
            replies = line.send(commands, deadline, self._admitted.release)
        except BaseException:
            self._admitted.release()
            raise
        found = await replies
        if not is_unfit(found[-1]):
            self._backoff.succeed()
        return found

    async def close(self) -> None:
        """See the contract."""
        self._is_closed = True
        tasks = [task for task in (self._opening, self._following) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._line is not None:
            self._line.close(RedisConnectionError(CLOSED))
            async with asyncio.timeout(self._timeout_s):
                await self._line.lost.wait()

    async def _opened(self, deadline: float) -> Line:
        """Return the line that somebody is opening; who is in a hurry leaves it to the others."""
        if self._is_closed:
            raise RedisConnectionError(CLOSED)
        opening = self._opening
        if opening is None:
            opening = self._opening = asyncio.create_task(self._open())
            opening.add_done_callback(self._end_opening)
        async with asyncio.timeout_at(deadline):
            await asyncio.wait({opening})
        if opening.cancelled():
            raise RedisConnectionError(CLOSED)
        return opening.result()

    async def _open(self) -> Line:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._backoff.not_before - loop.time())
        # A connection that is accepted and then lost is a failure too: only a reply ends a back-off.
        self._backoff.fail(loop.time())
        line, login = await self._connector.open(self._host)
        self._line = line
        if login is not None and self._connector.credentials.may_change:
            self._following = asyncio.create_task(self._follow(line, login))
        return line

    def _end_opening(self, opening: asyncio.Task[Line]) -> None:
        self._opening = None
        if not opening.cancelled():
            # Marks it as seen: whoever waited may be gone.
            opening.exception()

    async def _follow(self, line: Line, login: Login) -> None:
        """Log the open line in again whenever its login changes."""
        while line.is_open:
            await asyncio.sleep(LOGIN_CHECKED_S)
            try:
                changed = await asyncio.to_thread(self._connector.credentials.read)
                if changed is None or changed == login:
                    continue
                deadline = asyncio.get_running_loop().time() + self._timeout_s
                [reply] = await line.send([changed.command], deadline)
                if isinstance(reply, RedisError):
                    raise reply
                login = changed
            except (RedisError, OSError) as error:
                # The line stays as it is logged in; the file may be a moment ahead of the server.
                log.warning("redis_login_not_renewed", cause=f"{type(error).__name__}: {error}")
