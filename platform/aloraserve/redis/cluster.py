"""Scripts on a cluster, each on the server that has its keys, over one connection per server.

Redirections and what to do about them: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from aloraserve.redis.backoff import Backoff
from aloraserve.redis.channel import RedisChannel
from aloraserve.redis.connect import Connector
from aloraserve.redis.line import CLOSED, Command
from aloraserve.redis.scripts import ScriptCall
from aloraserve.redis.slots import SlotMap
from aloraserve.redis.url import Host

MAX_HOPS = 8
"""Redirections of one call; a cluster that agrees with itself needs two."""
MAX_SERVERS_ASKED = 4
"""For the map of slots, in one attempt."""
AGAIN_S = 0.01
"""The longest wait while the keys of a script are on their way from one server to another."""


class _Route(NamedTuple):
    """Where a script is sent, and how.

    Args:
        host: the server.
        commands: the last one runs the script.
    """

    host: Host
    commands: Sequence[Command]


class ClusterChannel:
    """See :class:`~aloraserve.redis.scripts.ScriptRunner`.

    A script is sent again only where a server said that it did not run it: while its keys are moving, or have moved.

    Args:
        connector: opens the connections.
        seeds: servers that are asked for the map of slots as long as no other is known.
        timeout_s: the longest that :meth:`run` takes.
        max_calls: under way on a server; more wait, within ``timeout_s``.
    """

    def __init__(self, connector: Connector, seeds: Sequence[Host], *, timeout_s: float, max_calls: int) -> None:
        self._connector = connector
        self._seeds = tuple(seeds)
        self._timeout_s = timeout_s
        self._max_calls = max_calls
        self._slots = SlotMap()
        self._channels: dict[Host, RedisChannel] = {}
        self._backoff = Backoff()
        self._learning: asyncio.Task[None] | None = None
        self._is_closed = False

    async def run(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """See the contract; the scripts run side by side."""
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        if len(calls) == 1:
            return [await self._reply(calls[0], deadline)]
        replies = await asyncio.gather(*(self._reply(call, deadline) for call in calls), return_exceptions=True)
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
        return replies

    def server_of(self, key: str) -> str:
        """Return which server has a key, as far as is known.

        Raises:
            RedisConnectionError: none has it.
        """
        return str(self._slots.owner(key_slot(key.encode())))

    async def close(self) -> None:
        """See the contract."""
        self._is_closed = True
        if self._learning is not None:
            self._learning.cancel()
            await asyncio.gather(self._learning, return_exceptions=True)
        await asyncio.gather(*(channel.close() for channel in self._channels.values()), return_exceptions=True)

    async def _reply(self, call: ScriptCall, deadline: float) -> Any:
        if not self._slots.is_known:
            await self._learned(deadline)
        route = self._owner(call)
        for _ in range(MAX_HOPS):
            reply = await self._ask(route, deadline)
            while isinstance(reply, TryAgainError):
                await self._pause(deadline)
                route = self._owner(call)
                reply = await self._ask(route, deadline)
            if not isinstance(reply, RedisError):
                return reply
            route = self._next(reply, route, call)
        raise RedisConnectionError(f"the cluster is changing: {MAX_HOPS} redirections of one call")

    def _owner(self, call: ScriptCall) -> _Route:
        return _Route(self._slots.owner(_slot_of(call)), [call.by_digest()])

    def _next(self, reply: RedisError, route: _Route, call: ScriptCall) -> _Route:
        """Return where a script goes that ``route`` did not run; raise what says that nothing else is to be done."""
        match reply:
            case NoScriptError():
                # A server that imports the slot has to be asked in the same way again.
                return _Route(route.host, [*route.commands[:-1], call.by_source()])
            # It is an AskError too.
            case MovedError():
                moved = _named(reply, route.host)
                self._slots.move(_slot_of(call), moved)
                self._learn()
                return _Route(moved, [call.by_digest()])
            case AskError():
                return _Route(_named(reply, route.host), [("ASKING",), call.by_digest()])
            case ClusterDownError():
                self._learn()
        raise reply

    async def _ask(self, route: _Route, deadline: float) -> Any:
        try:
            return (await self._channel(route.host).exchange(route.commands, deadline))[-1]
        except (RedisError, OSError, asyncio.CancelledError):
            # Another server may have taken its place; who looks up gives up long before a call has failed.
            if not self._is_closed:
                self._learn()
            raise

    @staticmethod
    async def _pause(deadline: float) -> None:
        async with asyncio.timeout_at(deadline):
            await asyncio.sleep(random.uniform(0.0, AGAIN_S))  # noqa: S311 - no secret

    def _channel(self, host: Host) -> RedisChannel:
        if self._is_closed:
            raise RedisConnectionError(CLOSED)
        channel = self._channels.get(host)
        if channel is None:
            channel = self._channels[host] = RedisChannel(
                self._connector, timeout_s=self._timeout_s, max_calls=self._max_calls, host=host
            )
        return channel

    async def _learned(self, deadline: float) -> None:
        """Wait until the map of slots is there; who is in a hurry leaves that to the others."""
        learning = self._learn()
        async with asyncio.timeout_at(deadline):
            await asyncio.wait({learning})
        if learning.cancelled():
            raise RedisConnectionError(CLOSED)
        learning.result()

    def _learn(self) -> asyncio.Task[None]:
        """Have the map of slots read, in the background and with a back-off."""
        if self._is_closed:
            raise RedisConnectionError(CLOSED)
        if self._learning is None:
            self._learning = asyncio.create_task(self._read_slots())
            self._learning.add_done_callback(self._end_learning)
        return self._learning

    def _end_learning(self, learning: asyncio.Task[None]) -> None:
        self._learning = None
        if not learning.cancelled():
            # Marks it as seen: whoever waited may be gone.
            learning.exception()

    async def _read_slots(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._backoff.not_before - loop.time())
        # Only time ends this back-off: a map that is there may still be the one that was wrong.
        self._backoff.fail(loop.time())
        known = [*{*self._slots.hosts, *self._seeds}]
        causes = []
        for host in random.sample(known, min(len(known), MAX_SERVERS_ASKED)):
            try:
                # A server that hangs must leave time to ask another one.
                deadline = loop.time() + self._timeout_s / MAX_SERVERS_ASKED
                [found] = await self._channel(host).exchange([("CLUSTER", "SLOTS")], deadline)
                if isinstance(found, RedisError):
                    raise found
                self._slots.replace(found, host)
            except (RedisError, OSError) as error:
                causes.append(f"{host}: {error or type(error).__name__}")
            else:
                await self._forget_servers()
                return
        raise RedisConnectionError(f"no server of the cluster says who has which slot ({'; '.join(causes)})")

    async def _forget_servers(self) -> None:
        """Close the connections to servers that have no slot any more."""
        kept = {*self._slots.hosts, *self._seeds}
        for host in [host for host, channel in self._channels.items() if host not in kept and channel.is_idle]:
            with suppress(OSError):
                await self._channels.pop(host).close()


def _slot_of(call: ScriptCall) -> int:
    key = call.keys[0]
    return key_slot(key if isinstance(key, bytes) else key.encode())


def _named(redirection: AskError, asked: Host) -> Host:
    """Return the server that a redirection names; one without a name is the one that was asked."""
    return Host(redirection.host or asked.name, redirection.port)
