"""Limits of tenants at the way in: what a call will need is taken from them, and corrected at its end."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from aloraserve.errors import AloraserveError, DrainingError, OverloadedError, RateLimitedError, ReplicaLostError
from aloraserve.limits.base import CONCURRENCY, NAMES, Demand, Standing, Want, is_limited, per_minute
from aloraserve.limits.guarded import GuardedLimits
from aloraserve.routing.fair_share import MAX_PRIORITY, TenantShare
from aloraserve.serving.admission import NOTHING_USED, CallUsage, Ticket
from aloraserve.serving.limit_headers import limit_headers
from aloraserve.serving.request import GenerationRequest, Origin
from aloraserve.serving.usage_estimate import UsageEstimates
from aloraserve.tenants import Caller
from aloraserve.tenants.limits import TenantLimits

MAX_REQUESTS = 65_536
"""Requests that are remembered, so that their further calls count as no request of their own; the oldest go first."""
FLEETS_ERRORS = (OverloadedError, ReplicaLostError, DrainingError)
"""Calls that end with one of them, or with an error that nobody foresaw, used nothing and count as no request."""


class UsageRecorder(Protocol):
    """Counts what tenants use."""

    def used(self, caller: Caller, usage: CallUsage, *, requests: int) -> None:
        """Count an answered call; ``requests`` is 0 for further calls of a request that was counted."""
        ...

    def refused(self, caller: Caller, limit: str) -> None:
        """Count a call that a limit refused."""
        ...


@dataclass(slots=True)
class _Running:
    """A request in progress.

    Args:
        holders: calls and contexts that keep its place.
        has_place: whether one of its calls took the place, or is about to.
    """

    holders: int = 0
    has_place: bool = False


class TenantAdmission:
    """See :class:`~aloraserve.serving.admission.Admission`.

    A request counts once, however many calls it makes, and takes one place among its tenant's running requests. A call
    of a tenant without limits asks nobody.

    Args:
        store: takes and settles.
        limits_of: returns the limits of a caller's tenant.
        recorder: counts what is used and refused.
    """

    def __init__(
        self, store: GuardedLimits, limits_of: Callable[[Caller], TenantLimits], recorder: UsageRecorder
    ) -> None:
        self.store = store
        self.recorder = recorder
        self.estimates = UsageEstimates()
        self._limits_of = limits_of
        self._gateway = secrets.token_hex(6)
        self._calls = 0
        self._running: dict[str, _Running] = {}
        self._counted: dict[str, None] = {}

    async def admit(self, requests: Sequence[GenerationRequest]) -> Sequence[Ticket]:
        """See the contract."""
        request = requests[0]
        limits, lease = self._limits_of(request.origin.caller), self._name(request.origin)
        is_first = lease not in self._counted
        shares = [share_of(call, limits) for call in requests]
        if not is_limited(limits):
            self._count(lease)
            return CallGroup(self, requests, None, is_first=is_first).tickets(shares, {})
        demand = self.estimates.demand(requests, limits, requests=int(is_first))
        self._count(lease)
        want, standing = await self._taken(request, limits, lease, demand)
        if standing.refused_by is not None:
            if is_first:
                self._counted.pop(lease, None)
            self.recorder.refused(request.origin.caller, standing.refused_by)
            raise self._refusal(request, standing)
        return CallGroup(self, requests, want, is_first=is_first).tickets(shares, limit_headers(standing))

    @contextlib.contextmanager
    def place(self, origin: Origin) -> Iterator[None]:
        """See the contract."""
        lease = self._name(origin)
        self._enter(lease)
        try:
            yield
        finally:
            self.leave(lease)

    def leave(self, lease: str) -> None:
        """Note that one of those that keep a request's place does not any more; the last one gives it back."""
        running = self._running[lease]
        running.holders -= 1
        if not running.holders:
            del self._running[lease]
            self.store.release(lease)

    async def _taken(
        self, request: GenerationRequest, limits: TenantLimits, lease: str, demand: Demand
    ) -> tuple[Want, Standing]:
        """Take a demand, and the request's place if none of its calls has; a call that is refused keeps nothing."""
        self._calls += 1
        running = self._enter(lease)
        takes_place, running.has_place = not running.has_place, True
        asked = limits if takes_place else msgspec.structs.replace(limits, concurrency=None)
        want = Want(request.origin.caller.tenant or "", asked, demand, lease, f"{lease}-{self._calls}")
        is_taken = False
        try:
            standing = await self.store.take(want)
            is_taken = standing.refused_by is None
        finally:
            if not is_taken:
                running.has_place = not takes_place
                self.leave(lease)
        return want, standing

    def _name(self, origin: Origin) -> str:
        # A client chooses ids, and may choose one again; the moment of arrival is its request's alone.
        return f"{self._gateway}-{origin.arrived_at!r}"

    def _count(self, lease: str) -> None:
        """Note that a request has made a call."""
        self._counted[lease] = None
        if len(self._counted) > MAX_REQUESTS:
            del self._counted[next(iter(self._counted))]

    def _enter(self, lease: str) -> _Running:
        running = self._running.setdefault(lease, _Running())
        running.holders += 1
        return running

    def _refusal(self, request: GenerationRequest, standing: Standing) -> RateLimitedError:
        wait_s = standing.wait_us / 1e6
        if standing.refused_by == CONCURRENCY:
            wait_s = self.estimates.place_s(request, standing.limits.concurrency or 1)
            reached = f"{standing.limits.concurrency} requests run at once, as many as it may have"
        else:
            reached = f"its limit of {_per_minute(standing)} per minute is reached"
        return RateLimitedError(
            f"rate limit of the tenant: {reached}; retry in {wait_s:.3g} s",
            retry_after_s=wait_s,
            headers=limit_headers(standing),
        )


class CallGroup:
    """Calls that were let in together. What they took is corrected once, when the last of them has ended.

    If one fails by the fleet's fault none of them has used anything: their client gets no answer.

    Args:
        admission: that it is of.
        calls: that were let in.
        want: that was taken, None of a tenant without limits.
        is_first: whether they count as a request.
    """

    def __init__(
        self, admission: TenantAdmission, calls: Sequence[GenerationRequest], want: Want | None, *, is_first: bool
    ) -> None:
        self.is_failed = False
        self._admission = admission
        self._calls = calls
        self._want = want
        self._requests = int(is_first)
        self._used: list[CallUsage] = []

    def tickets(self, shares: Sequence[TenantShare], headers: Mapping[str, str]) -> list[Ticket]:
        """Return a ticket for each call."""
        return [TenantTicket(self, call, share, headers) for call, share in zip(self._calls, shares, strict=True)]

    def learn(self, call: GenerationRequest, usage: CallUsage, seconds: float) -> None:
        """Note what a call used that was answered."""
        if self._want is not None:
            self._admission.estimates.learn(call, usage, seconds)

    def end(self, usage: CallUsage) -> None:
        """Note the end of a call."""
        self._used.append(usage)
        if len(self._used) < len(self._calls):
            return
        used = Demand() if self.is_failed else self._counted()
        if self._want is not None:
            taken = self._want.demand
            self._admission.store.settle(self._want, Demand(*(a - b for a, b in zip(used, taken, strict=True))))
            self._admission.leave(self._want.lease)

    def _counted(self) -> Demand:
        """Count what the calls used; return it."""
        caller, requests = self._calls[0].origin.caller, self._requests
        for usage in self._used:
            if usage != NOTHING_USED:
                self._admission.recorder.used(caller, usage, requests=requests)
                requests = 0
        tokens = sum(usage.prompt_tokens + usage.generated_tokens for usage in self._used)
        return Demand(self._requests, tokens, sum(usage.uncached_tokens for usage in self._used))


class TenantTicket:
    """See :class:`~aloraserve.serving.admission.Ticket`.

    Args:
        group: of the calls that were let in with this one.
        call: that it lets in.
        share: of the tenant.
        headers: that say where the tenant stands.
    """

    def __init__(
        self, group: CallGroup, call: GenerationRequest, share: TenantShare, headers: Mapping[str, str]
    ) -> None:
        self.headers: Mapping[str, str] = headers
        self.share: TenantShare | None = share
        self._group = group
        self._call = call
        self._started = time.perf_counter()
        self._is_ended = False

    def settle(self, usage: CallUsage) -> None:
        """See the contract."""
        if not self._is_ended:
            self._group.learn(self._call, usage, time.perf_counter() - self._started)
            self._end(usage)

    def fail(self, error: BaseException, usage: CallUsage) -> None:
        """See the contract; what engines did for a call that its client gave up, or gave too little time, is used."""
        if not self._is_ended:
            self._group.is_failed = self._group.is_failed or is_fleets_fault(error)
            self._end(usage)

    def _end(self, usage: CallUsage) -> None:
        self._is_ended = True
        self._group.end(usage)


def is_fleets_fault(error: BaseException) -> bool:
    """Return whether a call that ends with an error used nothing: the client can do nothing about it."""
    is_foreseen = isinstance(error, AloraserveError) or not isinstance(error, Exception)
    return isinstance(error, FLEETS_ERRORS) or not is_foreseen


def share_of(request: GenerationRequest, limits: TenantLimits) -> TenantShare:
    """Return what engines know of a request's tenant: neither its name nor its key."""
    tenant = request.origin.caller.tenant
    tag = "" if tenant is None else hashlib.blake2b(tenant.encode(), digest_size=8).hexdigest()
    priority = min(max(request.origin.priority, -MAX_PRIORITY), MAX_PRIORITY)
    return TenantShare(tag, limits.weight, limits.priority, priority)


def _per_minute(standing: Standing) -> str:
    index = NAMES.index(str(standing.refused_by))
    return f"{per_minute(standing.limits)[index]} {('requests', 'tokens', 'uncached prompt tokens')[index]}"
