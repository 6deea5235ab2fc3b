"""Scripts on a cluster, each on its key's server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from redis.asyncio import RedisCluster
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisClusterException

from aloraserve.redis.scripts import ScriptCall


class ClusterScriptRunner:
    """See :class:`~aloraserve.redis.scripts.ScriptRunner`.

    Args:
        redis: the client.
        timeout_s: the longest that :meth:`run` takes.
        max_calls: calls at once, and scripts at once; more wait, within ``timeout_s``.
    """

    def __init__(self, redis: RedisCluster, *, timeout_s: float, max_calls: int) -> None:
        self._redis = redis
        self._timeout_s = timeout_s
        self._calls = asyncio.Semaphore(max_calls)
        self._commands = asyncio.Semaphore(max_calls)
        self._exchanges: set[asyncio.Task[list[Any]]] = set()

    async def run(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """See the contract; the scripts run side by side.

        What was sent is answered even if the caller gives up: a caller in a hurry would otherwise close a connection
        that is still being opened, time and again, and never get one.
        """
        if not calls:
            return []
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        async with asyncio.timeout_at(deadline):
            await self._calls.acquire()
        exchange = asyncio.create_task(self._exchange(calls, deadline))
        self._exchanges.add(exchange)
        exchange.add_done_callback(self._end)
        return await asyncio.shield(exchange)

    async def close(self) -> None:
        """See the contract."""
        for exchange in self._exchanges:
            exchange.cancel()
        await asyncio.gather(*self._exchanges, return_exceptions=True)

    def _end(self, exchange: asyncio.Task[list[Any]]) -> None:
        self._calls.release()
        self._exchanges.discard(exchange)
        if not exchange.cancelled():
            # Marks it as seen: nobody waits for the error of an abandoned call.
            exchange.exception()

    async def _exchange(self, calls: Sequence[ScriptCall], deadline: float) -> list[Any]:
        async with asyncio.timeout_at(deadline):
            try:
                # Before it knows the slots, a cluster's client asks any server.
                await self._redis.initialize()
                replies = await asyncio.gather(*(self._reply(call) for call in calls), return_exceptions=True)
                for reply in replies:
                    if isinstance(reply, BaseException):
                        raise reply
            except (AttributeError, RedisClusterException) as error:
                # One call that meets a lost server closes connections that others are just opening, and they stumble
                # over it; and the client's own error is not a RedisError.
                raise RedisConnectionError(f"the cluster is changing: {error}") from error
            return list(replies)

    async def _reply(self, call: ScriptCall) -> Any:
        redis = cast(Any, self._redis)
        # A cluster's client refuses what goes beyond its connections to a server, instead of having it wait.
        async with self._commands:
            try:
                return await redis.evalsha(call.script.digest, len(call.keys), *call.keys, *call.arguments)
            except NoScriptError:
                return await redis.eval(call.script.source, len(call.keys), *call.keys, *call.arguments)
