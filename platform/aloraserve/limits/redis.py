"""A store of limits that the gateways of a fleet share: one script decides about all limits of a request."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Self

from aloraserve.limits.base import CONCURRENCY, LEASE_US, NAMES, Settlement, Standing, Want
from aloraserve.redis.keys import fleet_prefix
from aloraserve.redis.script_client import ScriptClient
from aloraserve.redis.scripts import Script, ScriptCall

MAX_CALLS = 256
MAX_RENEWED = 256
"""Leases that one script renews: the server answers nobody else meanwhile."""
MAX_TOGETHER = 64
"""Scripts in one write."""
_TAKE = Script.read(__package__, "take")
_SETTLE = Script.read(__package__, "settle")
_UNDO = Script.read(__package__, "undo")
_RENEW = Script.read(__package__, "renew")
_REFUSED_BY = (None, *NAMES, CONCURRENCY)


class RedisLimits:
    """See :class:`~aloraserve.limits.base.LimitStore`; its clock is the server's.

    A tenant has the hash ``{aloraserve:<namespace>:<digest of the tenant>}:limits`` with its buckets and, if its
    concurrency is limited, the sorted set ``...:leases`` of what runs by the time when it ends. ``...:calls`` has what
    was taken of late, so that it can be undone. They lie in one slot of a cluster, tenants' in any, and expire when
    they have nothing to say any more.

    Args:
        client: closed by :meth:`close`.
        namespace: of the fleet.

    Raises:
        ValueError: the namespace is empty or has a brace.
    """

    def __init__(self, client: ScriptClient, *, namespace: str) -> None:
        self._scripts = client
        self._prefix = fleet_prefix(namespace).removesuffix("}:")

    @classmethod
    def from_url(cls, url: str, *, namespace: str, timeout_s: float = 1.0) -> Self:
        """Return a store at ``url``; connects when first used.

        Raises:
            ValueError: the URL or the namespace is not one of those accepted.
        """
        client = ScriptClient.from_url(url, timeout_s=timeout_s, max_calls=MAX_CALLS, part="store of limits")
        return cls(client, namespace=namespace)

    async def take(self, want: Want) -> Standing:
        costs = _pairs(want.per_minute, want.demand)
        concurrency = want.limits.concurrency or 0
        arguments: tuple[str | int, ...] = (want.lease, LEASE_US, concurrency, want.call, *costs)
        reply = await self._scripts.run(ScriptCall(_TAKE, self._keys(want.tenant), arguments))
        by, wait, *used, running = map(int, reply)
        return Standing(_REFUSED_BY[by], wait, (used[0], used[1], used[2]), running, want.limits)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        await self._scripts.run_all(
            [
                ScriptCall(
                    _SETTLE, self._keys(want.tenant), (want.lease, want.call, *_pairs(want.per_minute, correction))
                )
                for want, correction in settlements
            ]
        )

    async def undo(self, wants: Sequence[Want]) -> None:
        await self._scripts.run_all(
            [ScriptCall(_UNDO, self._keys(want.tenant), (*_undone(want), *_given_back(want))) for want in wants]
        )

    async def renew(self, wants: Iterable[Want]) -> None:
        by_tenant: dict[str, list[str]] = {}
        for want in wants:
            by_tenant.setdefault(want.tenant, []).append(want.lease)
        calls = [
            ScriptCall(_RENEW, self._keys(tenant)[1:2], [str(LEASE_US), *leases[start : start + MAX_RENEWED]])
            for tenant, leases in by_tenant.items()
            for start in range(0, len(leases), MAX_RENEWED)
        ]
        for start in range(0, len(calls), MAX_TOGETHER):
            await self._scripts.run_all(calls[start : start + MAX_TOGETHER])

    async def close(self) -> None:
        await self._scripts.close()

    def _keys(self, tenant: str) -> tuple[str, str, str]:
        digest = hashlib.blake2b(tenant.encode(), digest_size=12).hexdigest()
        slot = f"{self._prefix}:{digest}}}:"
        return f"{slot}limits", f"{slot}leases", f"{slot}calls"


def _undone(want: Want) -> tuple[str | int, ...]:
    """Return the call, the lease that it took if any, and how long the server is to know that it is undone."""
    return want.call, want.lease if want.limits.concurrency is not None else "", LEASE_US


def _given_back(want: Want) -> tuple[int, ...]:
    return _pairs(want.per_minute, (-cost for cost in want.demand))


def _pairs(limits: Iterable[int], amounts: Iterable[int]) -> tuple[int, ...]:
    return tuple(number for pair in zip(limits, amounts, strict=True) for number in pair)
