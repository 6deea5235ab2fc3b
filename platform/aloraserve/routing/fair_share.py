"""Prefill seconds of one engine, shared between tenants by weight; within a tenant calls keep their own order.

Start-time fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queuing", SIGCOMM 1996) over the tenants that wait at a
replica, on the engine's own priority queue. Every call has its own number, see :mod:`aloraserve.routing.scheduling`.
A tenant's calls are given to the engine as few at a time as keep it busy, the lowest own number first: what the engine
has, nobody can put behind a newcomer's any more.

While one tenant alone has calls before their first token, a call's own number is its number in the engine too, and one
that is lower than a number which the engine has is given to it at once: calls begin in the order that they would have
if the engine had them all. While several have, it is ``start``::

    start  = max(virtual time, finish of the tenant's call before it)
    finish = start + ageing * prefill seconds * weights of all tenants here / weight of the tenant

The virtual time is the lowest number that the engine has and has not answered: that of the call which it computes or
begins next. So a tenant that comes back banks nothing for the time that it was away, and one that used an idle engine
owes nothing.

Whatever gateways calls come through, they meet in the replica; nothing is agreed on between gateways. Over any time in
which two tenants wait, the prefill seconds that each got by its weight differ by no more than what the engine has of
both at once, however long the calls of each are.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from aloraserve.routing.scheduling import PRIORITY_UNITS_PER_S, Scheduling

CallId = TypeVar("CallId", bound=Hashable)
PRIORITY_S = 1.0
"""Prefill seconds that one unit of a request's or tenant's priority is worth."""
MAX_PRIORITY = 100
"""Of a request, in both directions; what is beyond counts as this."""
MAX_LEAD_S = 60.0
"""Waiting that a tenant's priority makes up for at most, in both directions: that much prefill is all that it can have
computed before others' calls begin, and then it has its share."""
STEPS_AHEAD = 2
"""Of an engine's steps, how much prefill it has of each tenant: what it computes, and what it takes up next."""
LEAST_STEP_TOKENS = 512
MAX_NUMBER_S = 9e12
"""Times ``PRIORITY_UNITS_PER_S`` it fits 64 bits, as vLLM's messages need."""


@dataclass(frozen=True, slots=True)
class TenantShare:
    """A call's tenant, as engines know it.

    Args:
        tenant: opaque; the same of all calls of a tenant. Empty without tenants: the engine gets such calls at once.
        weight: of the tenant, above 0.
        tenant_priority: of the tenant beside others: its calls begin as if they had come earlier (below 0) or later, by
            ``PRIORITY_S / ageing`` seconds per unit, ``MAX_LEAD_S`` at most. Its share stays what its weight says.
        priority: of the call among the tenant's own, likewise.
    """

    tenant: str = ""
    weight: float = 1.0
    tenant_priority: int = 0
    priority: int = 0


NO_TENANT = TenantShare()


class QueuedCall(NamedTuple, Generic[CallId]):
    """A call that a replica has taken in.

    Args:
        call: its id.
        share: of its tenant.
        prefill_s: expected, alone.
        tokens: to be prefilled.
        own_s: its own number, without priorities.
        adapter: that it needs; the engine may have no slot for it while others' calls could begin.
    """

    call: CallId
    share: TenantShare
    prefill_s: float
    tokens: int
    own_s: float
    adapter: str | None = None


class Turn(NamedTuple, Generic[CallId]):
    """A call whose turn has come to be given to the engine.

    Args:
        call: its id.
        number_s: its place in the engine's queue.
    """

    call: CallId
    number_s: float

    @property
    def priority(self) -> int:
        """The same as vLLM's ``priority``: an integer, the lowest first."""
        return round(max(min(self.number_s, MAX_NUMBER_S), -MAX_NUMBER_S) * PRIORITY_UNITS_PER_S)


@dataclass(slots=True)
class _Given(Generic[CallId]):
    queued: QueuedCall[CallId]
    start_s: float
    own_s: float


@dataclass(slots=True)
class _Tenant(Generic[CallId]):
    finish_s: float = -math.inf
    waiting: dict[str | None, list[tuple[float, int, QueuedCall[CallId]]]] = field(default_factory=dict)
    given: dict[CallId, _Given[CallId]] = field(default_factory=dict)
    given_tokens: int = 0
    weight: float = 1.0

    @property
    def is_here(self) -> bool:
        return bool(self.given or self.waiting)


class FairQueue(Generic[CallId]):
    """See the module's docstring. Bounded by the calls that a replica takes in.

    Args:
        scheduling: of the engine; where it takes calls in the order in which they came, all are given to it at once.
        step_tokens: that the engine computes in a step at most, 0 if unknown.
    """

    def __init__(self, scheduling: Scheduling, step_tokens: int = 0) -> None:
        self._scheduling = scheduling
        self._ahead_tokens = STEPS_AHEAD * max(step_tokens, LEAST_STEP_TOKENS)
        self._tenants: dict[str, _Tenant[CallId]] = {}
        self._of_call: dict[CallId, QueuedCall[CallId]] = {}
        self._order = itertools.count()
        self._virtual_s = -math.inf

    def __len__(self) -> int:
        """How many calls are here: they wait, or their first token is not out."""
        return len(self._of_call)

    def add(self, queued: QueuedCall[CallId]) -> list[Turn[CallId]]:
        """Take in a call; return those whose turn has come, in order."""
        self._of_call[queued.call] = queued
        tenant = self._tenants.setdefault(queued.share.tenant, _Tenant())
        tenant.weight = queued.share.weight
        if self._scheduling.policy == "fcfs":
            return [self._give(tenant, queued, 0.0, 0.0)]
        own_s = queued.own_s + PRIORITY_S * queued.share.priority
        if not queued.share.tenant:
            return [self._give(tenant, queued, own_s, own_s)]
        heap = tenant.waiting.setdefault(queued.adapter, [])
        heapq.heappush(heap, (own_s, next(self._order), queued))
        return self._turns()

    def leave(self, call: CallId) -> list[Turn[CallId]]:
        """Note that a call's first token is out, or that it ended; return those whose turn has come by that."""
        queued = self._of_call.pop(call, None)
        if queued is None:
            return []
        tenant = self._tenants[queued.share.tenant]
        given = tenant.given.pop(call, None)
        if given is None:
            self._withdraw(tenant, queued)
        else:
            tenant.given_tokens -= queued.tokens
        if not self._of_call:
            # Nobody waits: nothing is owed, and the next call finds the queue as the first one did.
            self._tenants.clear()
            self._virtual_s = -math.inf
            return []
        return self._turns()

    @property
    def _virtual_time_s(self) -> float:
        """The number of the call that the engine computes or begins next, of the last one if it has none."""
        starts = [given.start_s for tenant in self._tenants.values() for given in tenant.given.values()]
        if starts:
            self._virtual_s = min(starts)
        return self._virtual_s

    def _turns(self) -> list[Turn[CallId]]:
        here = [tenant for tenant in self._tenants.values() if tenant.is_here]
        weights = sum(tenant.weight for tenant in here)
        turns = []
        for tenant in here:
            is_alone = len(here) == 1
            while (found := self._next(tenant, is_alone=is_alone)) is not None:
                own_s, queued = found
                start_s = max(self._virtual_time_s, tenant.finish_s)
                if is_alone or start_s == -math.inf:
                    start_s, tenant.finish_s = own_s, -math.inf
                else:
                    charge_s = self._scheduling.ageing * queued.prefill_s * weights / tenant.weight
                    tenant.finish_s = start_s + charge_s
                turns.append(self._give(tenant, queued, start_s, own_s))
        return turns

    def _next(self, tenant: _Tenant[CallId], *, is_alone: bool) -> tuple[float, QueuedCall[CallId]] | None:
        """Take out the tenant's next call with its own number, None while the engine has enough of it.

        Of an adapter that the engine has no call of there is always one: it may have a slot for no other.
        """
        heads = {adapter: heap[0] for adapter, heap in tenant.waiting.items()}
        if tenant.given_tokens >= self._ahead_tokens:
            given = {given.queued.adapter for given in tenant.given.values()}
            latest_s = max(given.own_s for given in tenant.given.values()) if is_alone else -math.inf
            heads = {adapter: head for adapter, head in heads.items() if adapter not in given or head[0] < latest_s}
        if not heads:
            return None
        adapter = min(heads, key=lambda adapter: heads[adapter][:2])
        heap = tenant.waiting[adapter]
        own_s, _, queued = heapq.heappop(heap)
        if not heap:
            del tenant.waiting[adapter]
        return own_s, queued

    def _give(self, tenant: _Tenant[CallId], queued: QueuedCall[CallId], start_s: float, own_s: float) -> Turn[CallId]:
        tenant.given[queued.call] = _Given(queued, start_s, own_s)
        tenant.given_tokens += queued.tokens
        most_s = MAX_LEAD_S * self._scheduling.ageing
        later_s = min(max(PRIORITY_S * queued.share.tenant_priority, -most_s), most_s)
        return Turn(queued.call, start_s + later_s)

    @staticmethod
    def _withdraw(tenant: _Tenant[CallId], queued: QueuedCall[CallId]) -> None:
        heap = tenant.waiting[queued.adapter]
        heap[:] = [entry for entry in heap if entry[2].call != queued.call]
        heapq.heapify(heap)
        if not heap:
            del tenant.waiting[queued.adapter]
