"""Scripts on whatever a URL names; every failure is one error of ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from redis.exceptions import RedisError

from aloraserve.errors import DirectoryUnavailableError
from aloraserve.redis.channel import RedisChannel
from aloraserve.redis.cluster import ClusterChannel
from aloraserve.redis.connect import Connector
from aloraserve.redis.scripts import ScriptCall, ScriptRunner
from aloraserve.redis.url import Deployment, read_url, redacted_url


class ScriptClient:
    """Runs scripts in bounded time.

    Args:
        runner: closed by :meth:`close`.
        timeout_s: the longest that a call may take, waiting for a connection included.
        url: where the server is, for messages.
        part: what of the platform is kept there, for messages.
    """

    def __init__(self, runner: ScriptRunner, *, timeout_s: float, url: str, part: str) -> None:
        self._runner = runner
        self._timeout_s = timeout_s
        self._where = f"the {part} at {redacted_url(url)}"

    @classmethod
    def from_url(cls, url: str, *, timeout_s: float, max_calls: int, part: str) -> Self:
        """Return a client that connects when it is first used.

        Args:
            url: see :func:`~aloraserve.redis.url.read_url`.
            timeout_s: see the class.
            max_calls: under way on a server; more wait, within ``timeout_s``.
            part: see the class.

        Raises:
            ValueError: the URL is none that is accepted.
        """
        return cls(_runner(url, timeout_s, max_calls), timeout_s=timeout_s, url=url, part=part)

    @property
    def is_cluster(self) -> bool:
        """Whether keys lie on several servers."""
        return isinstance(self._runner, ClusterChannel)

    def server_of(self, key: str) -> str:
        """Return which server of a cluster has a key, as far as is known; all keys' is empty where there is one.

        Raises:
            DirectoryUnavailableError: none has it.
        """
        try:
            return self._runner.server_of(key) if isinstance(self._runner, ClusterChannel) else ""
        except RedisError as error:
            raise self.unavailable(f"failed: {error}") from error

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


def _runner(url: str, timeout_s: float, max_calls: int) -> ScriptRunner:
    address = read_url(url)
    connector = Connector(address, timeout_s)
    if address.deployment is Deployment.CLUSTER:
        return ClusterChannel(connector, address.hosts, timeout_s=timeout_s, max_calls=max_calls)
    return RedisChannel(connector, timeout_s=timeout_s, max_calls=max_calls)
