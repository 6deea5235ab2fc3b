"""A ledger of savings that the gateways of a fleet share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

from aloraserve.ledger.redis import MAX_CALLS, RedisSums
from aloraserve.redis.script_client import ScriptClient
from aloraserve.savings.base import MAX_ADAPTERS, SavingsEntry, SavingsFigures, buckets
from aloraserve.savings.memory import KEPT_S


class RedisLedger(RedisSums[SavingsFigures]):
    """See :class:`~aloraserve.savings.base.SavingsLedger`.

    Args:
        client: closed by :meth:`close`.
        namespace: of the fleet.
        timeout_s: of the client.
        clock: seconds that never go back.

    Raises:
        ValueError: the namespace is empty or has a brace.
    """

    def __init__(
        self,
        client: ScriptClient,
        *,
        namespace: str,
        timeout_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            client,
            SavingsFigures,
            part="savings",
            kept_s=KEPT_S,
            max_names=MAX_ADAPTERS,
            namespace=namespace,
            timeout_s=timeout_s,
            clock=clock,
        )

    @classmethod
    def from_url(cls, url: str, *, namespace: str, timeout_s: float = 1.0) -> Self:
        """Return a ledger at ``url``; connects when first used.

        Raises:
            ValueError: the URL or the namespace is not one of those accepted.
        """
        client = ScriptClient.from_url(url, timeout_s=timeout_s, max_calls=MAX_CALLS, part="savings ledger")
        return cls(client, namespace=namespace, timeout_s=timeout_s)

    def add(self, entry: SavingsEntry, at_s: float) -> None:
        self.count(entry.adapter, SavingsFigures.of(entry), at_s)

    async def totals(self, window_s: float, now_s: float) -> dict[str, SavingsFigures]:
        width, numbers = buckets(window_s, now_s)
        return await self.sums((width, number) for number in numbers)
