"""The contract of a store of limits: one request at a time is taken against all limits of its tenant, or refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from aloraserve.tenants.limits import TenantLimits

MINUTE_US = 60_000_000
MAX_COST = 10**8
"""Tokens of one request. Times ``MINUTE_US`` it is a whole number that Lua's floating point has exactly."""
MAX_DEBT_US = 60 * MINUTE_US
"""How far requests that used more than they reserved can put a tenant behind; the rest is forgiven."""
LEASE_US = 30_000_000
"""How long a request counts as running whose gateway does not renew it."""


class Demand(NamedTuple):
    """Amounts of the limits per minute, in their order; of a settlement also negative ones.

    Args:
        requests: 1 of a request.
        tokens: of prompt and answer.
        uncached: of prompt tokens that have to be computed.
    """

    requests: int = 0
    tokens: int = 0
    uncached: int = 0


NAMES = ("requests", "tokens", "uncached-tokens")
"""Of the limits per minute, as clients see them, in the order of :class:`Demand`."""
CONCURRENCY = "concurrency"


class Want(NamedTuple):
    """What a request asks a store for.

    Args:
        tenant: opaque and the same in all gateways.
        limits: of the tenant, at least one.
        demand: to be taken; an amount above its limit can never be, and is at most ``MAX_COST``.
        lease: names the request among all that run.
        call: names this demand among all, so that it can be undone; empty if it need not be.
    """

    tenant: str
    limits: TenantLimits
    demand: Demand
    lease: str
    call: str = ""

    @property
    def per_minute(self) -> tuple[int, int, int]:
        """The limits per minute in the order of :class:`Demand`, 0 for none."""
        return per_minute(self.limits)


class Settlement(NamedTuple):
    """Correction of what a request took.

    Args:
        want: as it was taken; an empty lease ends nothing.
        correction: used less taken.
    """

    want: Want
    correction: Demand


@dataclass(frozen=True, slots=True)
class Standing:
    """A tenant's standing after a request was taken or refused.

    Args:
        refused_by: the limit that refuses the request, one of ``NAMES`` or ``CONCURRENCY``; None if it was taken.
        wait_us: until it would be taken if nothing else comes; 0 where that is not known.
        used_us: for each limit per minute, how long until its bucket is full again.
        running: requests that run, this one included.
        limits: that apply; those of one gateway where the store is one's own.
    """

    refused_by: str | None
    wait_us: int
    used_us: tuple[int, int, int]
    running: int
    limits: TenantLimits

    def remaining(self, index: int) -> int | None:
        """Return how much of a limit per minute is left now, None without that limit."""
        limit = per_minute(self.limits)[index]
        return max(MINUTE_US - self.used_us[index], 0) * limit // MINUTE_US if limit else None


class LimitStore(Protocol):
    """See the module's docstring.

    Each limit per minute is a bucket that holds one minute's worth, is full at first and fills at its rate. A request
    takes from all buckets and a place among those that run, or from none. Over any time ``t`` a limit of ``L`` per
    minute lets through at most ``L * (t + 1 minute)``, however many gateways ask; what is refused takes nothing.
    All arithmetic is in whole numbers: microseconds, and a remainder in fractions of one of them.

    A place is a lease: one whose gateway does not renew it ends after ``LEASE_US``. All clocks are the store's.
    """

    async def take(self, want: Want) -> Standing:
        """Take what a request needs, or nothing.

        Raises:
            DirectoryUnavailableError: the server does not answer.
        """
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Correct what requests took by what they used, and end their leases.

        Args:
            settlements: each request as it was taken, and used less taken. What is given back fills a bucket at most;
                what is charged may overdraw it, and then nothing is let through until that is paid, for
                ``MAX_DEBT_US`` at most.

        Raises:
            DirectoryUnavailableError: the server does not answer; what was given back or charged is then not known.
        """
        ...

    async def undo(self, wants: Sequence[Want]) -> None:
        """Give back what requests took, or have them take nothing if they come after this.

        For those whose replies did not come, within ``LEASE_US`` of them. Undone twice is undone once.

        Args:
            wants: as they were asked for, each with its ``call``.

        Raises:
            DirectoryUnavailableError: the server does not answer; it may be asked again.
        """
        ...

    async def renew(self, wants: Iterable[Want]) -> None:
        """Renew the leases of requests that still run.

        Raises:
            DirectoryUnavailableError: the server does not answer.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


def per_minute(limits: TenantLimits) -> tuple[int, int, int]:
    """Return the limits per minute in the order of :class:`Demand`, 0 for none."""
    return limits.requests_per_minute or 0, limits.tokens_per_minute or 0, limits.uncached_tokens_per_minute or 0


def is_limited(limits: TenantLimits) -> bool:
    """Return whether there is any limit."""
    return any(per_minute(limits)) or limits.concurrency is not None
