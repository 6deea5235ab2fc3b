"""A ledger that the gateways of a fleet share: one hash a bucket of time, every figure a field that is added to."""

from __future__ import annotations

import asyncio
from typing import Any, Self

from redis.exceptions import RedisClusterException, RedisError

from aloraserve.errors import DirectoryUnavailableError
from aloraserve.redis.client import RedisClient, open_client, redacted_url
from aloraserve.savings.base import FIGURES, SavingsEntry, SavingsFigures, buckets
from aloraserve.savings.memory import KEPT_S, Bucket, Tally

MAX_CONNECTIONS = 4
MAX_PENDING_BUCKETS = 64
"""Of a flush that never comes; the oldest go first."""


class RedisLedger:
    """See :class:`~aloraserve.savings.base.SavingsLedger`.

    A bucket is the hash ``{aloraserve:<namespace>}:savings:<width in seconds>:<number>`` with a field
    ``<figure>:<adapter>`` for each sum; it expires when no window reaches it any more. A flush is one pipeline of
    HINCRBY: what it may have written before it failed is not written again.

    Args:
        client: decodes no responses; closed by :meth:`close`.
        namespace: of the fleet.
        timeout_s: the longest that a flush or a read may take.
        url: where the server is, for messages.
    """

    def __init__(self, client: RedisClient, *, namespace: str, timeout_s: float = 1.0, url: str = "redis") -> None:
        self._client = client
        self._prefix = f"{{aloraserve:{namespace}}}:savings:"
        self._timeout_s = timeout_s
        self._where = redacted_url(url)
        self._pending = Tally()

    @classmethod
    def from_url(cls, url: str, *, namespace: str, timeout_s: float = 1.0) -> Self:
        """Return a ledger at ``url``; connects when first used.

        Raises:
            ValueError: the URL is none that is accepted.
        """
        client = open_client(url, timeout_s=timeout_s, max_connections=MAX_CONNECTIONS)
        return cls(client, namespace=namespace, timeout_s=timeout_s, url=url)

    def add(self, entry: SavingsEntry, at_s: float) -> None:
        pending = self._pending.by_bucket
        self._pending.add(entry, at_s)
        self._pending.forget(at_s)
        while len(pending) > MAX_PENDING_BUCKETS:
            del pending[next(iter(pending))]

    async def flush(self) -> None:
        if written := self._pending.take():
            await self._execute(self._increments(written))

    async def totals(self, window_s: float, now_s: float) -> dict[str, SavingsFigures]:
        width, numbers = buckets(window_s, now_s)
        await self.flush()
        pipe = self._client.redis.pipeline(transaction=False)
        for number in numbers:
            pipe.hgetall(self._key((width, number)))
        found: dict[str, SavingsFigures] = {}
        for fields in await self._execute(pipe):
            _add_fields(found, fields)
        return found

    async def close(self) -> None:
        await self._client.close()

    def _key(self, bucket: Bucket) -> str:
        return f"{self._prefix}{bucket[0]}:{bucket[1]}"

    def _increments(self, written: dict[Bucket, dict[str, SavingsFigures]]) -> Any:
        pipe = self._client.redis.pipeline(transaction=False)
        for bucket, by_adapter in written.items():
            key, width = self._key(bucket), bucket[0]
            for adapter, figures in by_adapter.items():
                for name in FIGURES:
                    if amount := getattr(figures, name):
                        pipe.hincrby(key, f"{name}:{adapter}", amount)
            # A gateway whose clock is behind may still read it a bucket later.
            pipe.pexpire(key, (KEPT_S[width] + 2 * width) * 1000)
        return pipe

    async def _execute(self, pipe: Any) -> list[Any]:
        try:
            async with asyncio.timeout(self._timeout_s):
                found: list[Any] = await pipe.execute()
                return found
        except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
            raise DirectoryUnavailableError(
                f"the savings ledger at {self._where} cannot be reached: {type(error).__name__}"
            ) from error


def _add_fields(found: dict[str, SavingsFigures], fields: dict[bytes, bytes]) -> None:
    for field, amount in fields.items():
        name, _, adapter = field.decode("utf-8", "replace").partition(":")
        # Another version's figures are left alone.
        if name in FIGURES:
            figures = found.setdefault(adapter, SavingsFigures())
            setattr(figures, name, getattr(figures, name) + int(amount))
