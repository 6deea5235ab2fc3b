"""A ledger of tenants' use that the gateways of a fleet share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Self

from aloraserve.ledger.redis import MAX_CALLS, RedisSums
from aloraserve.redis.script_client import ScriptClient
from aloraserve.usage.base import DAY_S, KEPT_DAYS, MAX_TENANTS, UsageFigures


class UsageLedger(RedisSums[UsageFigures]):
    """Use by tenant and day (UTC), see :class:`~aloraserve.ledger.redis.RedisSums`.

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
            UsageFigures,
            part="usage",
            kept_s={DAY_S: KEPT_DAYS * DAY_S},
            max_names=MAX_TENANTS,
            is_evictable=False,
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
        client = ScriptClient.from_url(url, timeout_s=timeout_s, max_calls=MAX_CALLS, part="usage ledger")
        return cls(client, namespace=namespace, timeout_s=timeout_s)

    async def days(self, numbers: Iterable[int], tenant: str | None = None) -> dict[int, dict[str, UsageFigures]]:
        """Return the use of days by tenant.

        Args:
            numbers: of the days since 1970.
            tenant: the only one that is of interest; None for all.

        Raises:
            DirectoryUnavailableError: the server cannot be reached, or has not answered for all days in time.
        """
        found = await self.by_bucket(((DAY_S, number) for number in numbers), tenant)
        return {number: figures for (_, number), figures in found.items()}
