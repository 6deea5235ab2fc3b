"""Limits of tenants at the way in: what a call will need is taken from them, and corrected at its end."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from aloraserve.errors import (
    DrainingError,
    InvalidRequestError,
    OverloadedError,
    RateLimitedError,
    ReplicaLostError,
)
from aloraserve.limits.base import CONCURRENCY, NAMES, Demand, Standing, Want, is_limited, per_minute
from aloraserve.limits.guarded import GuardedLimits
from aloraserve.routing.fair_share import MAX_PRIORITY, TenantShare
from aloraserve.serving.admission import CallUsage, Ticket
from aloraserve.serving.limit_headers import limit_headers
from aloraserve.serving.request import GenerationRequest
from aloraserve.serving.usage_estimate import UsageEstimates
from aloraserve.tenants import Caller
from aloraserve.tenants.limits import TenantLimits

MAX_REQUESTS = 65_536
"""Requests that are remembered, so that their further calls count as no request of their own; the oldest go first."""
FLEETS_ERRORS = (OverloadedError, ReplicaLostError, DrainingError)
"""A call that ends with one of them used nothing, and does not count as a request."""


class UsageRecorder(Protocol):
    """Counts what tenants use."""

    def used(self, caller: Caller, usage: CallUsage, *, requests: int) -> None:
        """Count an answered call; ``requests`` is 0 for further calls of a request that was counted."""
        ...

    def refused(self, caller: Caller, limit: str) -> None:
        """Count a call that a limit refused."""
        ...


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
        self._running: dict[str, int] = {}
        self._counted: dict[str, None] = {}

    async def admit(self, request: GenerationRequest) -> Ticket:
        """See the contract."""
        caller = request.origin.caller
        limits, lease = self._limits_of(caller), self._name(request)
        is_first = self._count(lease)
        if not is_limited(limits):
            return TenantTicket(self, request, share_of(request, limits), is_first=is_first)
        want = self._want(request, limits, lease, is_first=is_first)
        self._calls += 1
        call = f"{lease}-{self._calls}"
        self._running[lease] = self._running.get(lease, 0) + 1
        try:
            standing = await self.store.take(want, call)
        except BaseException:
            # Cancelled: the reply may say that it was taken.
            self.end(want, call, Demand())
            raise
        if standing.refused_by is not None:
            self._leave(lease)
            self._counted.pop(lease if is_first else "", None)
            self.recorder.refused(caller, standing.refused_by)
            raise self._refusal(request, standing)
        share = share_of(request, limits)
        return TenantTicket(self, request, share, is_first=is_first, taken=(want, call), standing=standing)

    def end(self, want: Want, call: str, correction: Demand) -> None:
        """Settle what a call took; the request's place goes back with its last call."""
        self.store.settle(want if self._leave(want.lease) else want._replace(lease=""), call, correction)

    def _name(self, request: GenerationRequest) -> str:
        # A client chooses ids, and may choose one again; the moment of arrival is its request's alone.
        return f"{self._gateway}-{request.origin.arrived_at!r}"

    def _count(self, lease: str) -> bool:
        """Return whether this is the first call of its request."""
        if lease in self._counted:
            return False
        self._counted[lease] = None
        if len(self._counted) > MAX_REQUESTS:
            del self._counted[next(iter(self._counted))]
        return True

    def _leave(self, lease: str) -> bool:
        """Note the end of a request's call; return whether it was the last of those that run."""
        left = self._running.pop(lease) - 1
        if left:
            self._running[lease] = left
        return not left

    def _want(self, request: GenerationRequest, limits: TenantLimits, lease: str, *, is_first: bool) -> Want:
        demand = self.estimates.demand(request, limits, requests=int(is_first))
        if lease in self._running:
            # Another call of the request holds its place.
            limits = msgspec.structs.replace(limits, concurrency=None)
        return Want(request.origin.caller.tenant or "", limits, demand, lease)

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


class TenantTicket:
    """See :class:`~aloraserve.serving.admission.Ticket`.

    Args:
        admission: that it is of.
        request: that it lets in.
        share: of the tenant.
        is_first: whether the call counts as a request.
        taken: what was taken and under which name, None of a tenant without limits.
        standing: of the tenant.
    """

    def __init__(
        self,
        admission: TenantAdmission,
        request: GenerationRequest,
        share: TenantShare,
        *,
        is_first: bool,
        taken: tuple[Want, str] | None = None,
        standing: Standing | None = None,
    ) -> None:
        self.headers: Mapping[str, str] = {} if standing is None else limit_headers(standing)
        self.share: TenantShare | None = share
        self._admission = admission
        self._request = request
        self._requests = int(is_first)
        self._taken = taken
        self._started = time.perf_counter()
        self._is_settled = False

    def settle(self, usage: CallUsage) -> None:
        """See the contract."""
        if self._is_settled:
            return
        admission, request = self._admission, self._request
        admission.recorder.used(request.origin.caller, usage, requests=self._requests)
        if self._taken is not None:
            admission.estimates.learn(request, usage, time.perf_counter() - self._started)
        used = Demand(self._requests, usage.prompt_tokens + usage.generated_tokens, usage.uncached_tokens)
        self._end(used)

    def fail(self, error: BaseException) -> None:
        """See the contract; who goes away before the first token has used what was expected."""
        if self._is_settled:
            return
        if isinstance(error, FLEETS_ERRORS):
            self._end(Demand())
        elif isinstance(error, InvalidRequestError):
            self._end(Demand(self._requests))
        else:
            self._end(None)

    def _end(self, used: Demand | None) -> None:
        """Settle by what was used, None for all that was taken."""
        self._is_settled = True
        if self._taken is not None:
            want, call = self._taken
            used = want.demand if used is None else used
            self._admission.end(want, call, Demand(*(a - b for a, b in zip(used, want.demand, strict=True))))


def share_of(request: GenerationRequest, limits: TenantLimits) -> TenantShare:
    """Return what engines know of a request's tenant: neither its name nor its key."""
    tenant = request.origin.caller.tenant
    tag = "" if tenant is None else hashlib.blake2b(tenant.encode(), digest_size=8).hexdigest()
    priority = min(max(request.origin.priority, -MAX_PRIORITY), MAX_PRIORITY)
    return TenantShare(tag, limits.weight, limits.priority, priority)


def _per_minute(standing: Standing) -> str:
    index = NAMES.index(str(standing.refused_by))
    return f"{per_minute(standing.limits)[index]} {('requests', 'tokens', 'uncached prompt tokens')[index]}"
