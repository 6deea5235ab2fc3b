"""Scripts on whatever a client talks to; every failure is one error of ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.asyncio import RedisCluster
from redis.exceptions import RedisError

from aloraserve.errors import DirectoryUnavailableError
from aloraserve.redis.channel import RedisChannel
from aloraserve.redis.client import RedisClient, redacted_url
from aloraserve.redis.cluster import ClusterScriptRunner
from aloraserve.redis.scripts import ScriptCall, ScriptRunner


class ScriptClient:
    """Runs scripts in bounded time.

    Args:
        client: decodes no responses; closed by :meth:`close`.
        timeout_s: the longest that a call may take, waiting for a connection included.
        max_calls: calls at once; more wait, within ``timeout_s``.
        url: where the server is, for messages.
        part: what of the platform is kept there, for messages.
    """

    def __init__(self, client: RedisClient, *, timeout_s: float, max_calls: int, url: str, part: str) -> None:
        self.client = client
        self._timeout_s = timeout_s
        self._where = f"the {part} at {redacted_url(url)}"
        self._runner = _runner(client, timeout_s, max_calls)

    async def run(self, call: ScriptCall) -> Any:
        """Return a script's reply; raises like :meth:`run_all`."""
        return (await self.run_all([call]))[0]

    async def run_all(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Return the scripts' replies: one round trip on one server, side by side in a cluster.

        Raises:
            DirectoryUnavailableError: the server did not answer in time, or with an error.
        """
        try:
            return await self._runner.run(calls)
        except TimeoutError as error:
            raise self.unavailable(f"did not answer within {self._timeout_s:g} s") from error
        except (RedisError, OSError) as error:
            raise self.unavailable(f"failed: {type(error).__name__}: {error}") from error

    def unavailable(self, why: str) -> DirectoryUnavailableError:
        """Return the error that says what is wrong and where, without a password."""
        return DirectoryUnavailableError(f"{self._where} {why}")

    async def close(self) -> None:
        """End what is under way and release connections."""
        await self._runner.close()
        await self.client.close()


def _runner(client: RedisClient, timeout_s: float, max_calls: int) -> ScriptRunner:
    redis = client.redis
    if isinstance(redis, RedisCluster):
        return ClusterScriptRunner(redis, timeout_s=timeout_s, max_calls=max_calls)
    return RedisChannel(redis.connection_pool, timeout_s=timeout_s, max_calls=max_calls)
