"""A store of limits in this process alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from aloraserve.limits.base import CONCURRENCY, LEASE_US, MAX_DEBT_US, NAMES, Demand, Settlement, Standing, Want
from aloraserve.limits.bucket import Bucket

UNDONE = "!"


@dataclass(slots=True)
class _Tenant:
    buckets: list[Bucket] = field(default_factory=lambda: [Bucket(1)] * len(NAMES))
    leases: dict[str, int] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    """Those that were taken, and (with ``UNDONE`` before them) those that are not to be; the oldest first."""

    def is_idle(self, now_us: int) -> bool:
        return not self.leases and not self.calls and all(bucket.full_at_us < now_us for bucket in self.buckets)


class MemoryLimits:
    """See :class:`~aloraserve.limits.base.LimitStore`.

    Args:
        clock_us: microseconds that never go back.
    """

    def __init__(self, clock_us: Callable[[], int] = lambda: time.monotonic_ns() // 1000) -> None:
        self._clock_us = clock_us
        self._tenants: dict[str, _Tenant] = {}
        self._cleaned_us = 0

    @property
    def tenants(self) -> int:
        """How many tenants are remembered: those that used something of late."""
        return len(self._tenants)

    async def take(self, want: Want) -> Standing:
        return self.take_now(want)

    def take_now(self, want: Want) -> Standing:
        """Take at once, see :meth:`take`."""
        now_us = self._clock_us()
        self._clean(now_us)
        tenant = self._tenants.setdefault(want.tenant, _Tenant())
        self._expire(tenant, now_us)
        before = self._buckets(tenant, want, now_us)
        after = [
            bucket.moved(cost) if limit else bucket
            for bucket, cost, limit in zip(before, want.demand, want.per_minute, strict=True)
        ]
        waits_us = [bucket.wait_us(now_us) for bucket in after]
        refused_by, wait_us = None, max(waits_us)
        if wait_us:
            refused_by = NAMES[waits_us.index(wait_us)]
        elif want.limits.concurrency is not None and len(tenant.leases) >= want.limits.concurrency:
            refused_by = CONCURRENCY
        if refused_by is None and not tenant.calls.pop(UNDONE + want.call, 0):
            if want.call:
                tenant.calls[want.call] = now_us + LEASE_US
            if want.limits.concurrency is not None:
                tenant.leases[want.lease] = now_us + LEASE_US
            tenant.buckets = before = after
        used = [bucket.full_at_us - now_us for bucket in before]
        return Standing(refused_by, wait_us, (used[0], used[1], used[2]), len(tenant.leases), want.limits)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        for settlement in settlements:
            self.settle_now(settlement)

    def settle_now(self, settlement: Settlement) -> None:
        """Settle at once, see :meth:`settle`."""
        want, correction = settlement
        tenant = self._tenants.setdefault(want.tenant, _Tenant())
        tenant.leases.pop(want.lease, None)
        tenant.calls.pop(want.call, None)
        self._correct(tenant, want, correction)

    async def undo(self, wants: Sequence[Want]) -> None:
        for want in wants:
            tenant = self._tenants.setdefault(want.tenant, _Tenant())
            if tenant.calls.pop(want.call, None) is None:
                tenant.calls[UNDONE + want.call] = self._clock_us() + LEASE_US
                continue
            if want.limits.concurrency is not None:
                tenant.leases.pop(want.lease, None)
            self._correct(tenant, want, Demand(*(-cost for cost in want.demand)))

    def _correct(self, tenant: _Tenant, want: Want, correction: Demand) -> None:
        now_us = self._clock_us()
        for index, (limit, amount) in enumerate(zip(want.per_minute, correction, strict=True)):
            if limit and amount:
                moved = tenant.buckets[index].at(now_us, limit).moved(amount)
                tenant.buckets[index] = min(moved, Bucket(limit, now_us + MAX_DEBT_US), key=_full_at)

    async def renew(self, wants: Iterable[Want]) -> None:
        now_us = self._clock_us()
        for want in wants:
            tenant = self._tenants.get(want.tenant)
            if tenant is not None and want.lease in tenant.leases:
                tenant.leases[want.lease] = now_us + LEASE_US

    async def close(self) -> None:
        pass

    @staticmethod
    def _buckets(tenant: _Tenant, want: Want, now_us: int) -> list[Bucket]:
        return [
            bucket.at(now_us, limit) if limit else Bucket(1, now_us)
            for bucket, limit in zip(tenant.buckets, want.per_minute, strict=True)
        ]

    @staticmethod
    def _expire(tenant: _Tenant, now_us: int) -> None:
        for lease in [lease for lease, ends_us in tenant.leases.items() if ends_us <= now_us]:
            del tenant.leases[lease]
        while tenant.calls and next(iter(tenant.calls.values())) <= now_us:
            del tenant.calls[next(iter(tenant.calls))]

    def _clean(self, now_us: int) -> None:
        """Forget tenants whose buckets are full and that have nothing running."""
        if now_us - self._cleaned_us < LEASE_US:
            return
        self._cleaned_us = now_us
        for name, tenant in list(self._tenants.items()):
            self._expire(tenant, now_us)
            if tenant.is_idle(now_us):
                del self._tenants[name]


def _full_at(bucket: Bucket) -> tuple[int, int]:
    return bucket.full_at_us, bucket.rest
