"""From a call to a claimed decision in bounded time, whatever state the directory is in."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from aloraserve.blocks import KeySpace
from aloraserve.directory.base import MAX_LOOKUP_BLOCKS, Candidate, Directory
from aloraserve.directory.guarded import guarded
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.routing.base import Call, Decision, Policy
from aloraserve.routing.breaker import Breaker
from aloraserve.routing.budget import Budget
from aloraserve.routing.claims import Claim, Claims
from aloraserve.routing.conversation_names import ConversationNames
from aloraserve.routing.fleet_mean import stand_in, stand_ins
from aloraserve.routing.in_flight import InFlight
from aloraserve.routing.last_seen import LastSeen
from aloraserve.routing.leaving import LeavingReplicas
from aloraserve.routing.placement import ClaimOutcome, FallbackCause, Placement
from aloraserve.routing.rendezvous import Rendezvous

CLAIM_BUDGET_S = 0.050
WAITS_TO_CATCH_UP = 5


@dataclass(frozen=True, slots=True)
class _Found:
    """Result of a lookup: the candidates, the first block that nobody has, and the cause if there was no answer."""

    candidates: Sequence[Candidate]
    unseen_from: int | None = None
    cause: FallbackCause | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """A placement that claims nothing yet.

    Args:
        placement: the decision.
        unseen_from: the first block that nobody has or is about to have, None if that is unknown.
    """

    placement: Placement
    unseen_from: int | None = None


class CallRouter(Protocol):
    """What the request path needs of a router; :class:`Router` says what each method does."""

    async def place(self, call: Call, claim_id: str, *, avoid: Collection[str] = ()) -> Placement: ...

    async def move(self, call: Call, placement: Placement, replica: str, claim_id: str) -> Placement: ...

    async def withdraw(self, call: Call, placement: Placement, claim_id: str) -> bool: ...

    def answered(self, claim_id: str) -> None: ...

    def ended(self, claim_id: str) -> None: ...


class Router:
    """Asks the directory and the policy, and claims; falls back to a rendezvous hash when the directory does not help.

    No method raises for the directory's sake, whatever it raises. A lookup that misses its budget is cancelled.
    Deadlines are the running event loop's, so that the simulator has them in its own time.

    The router counts the calls that it placed until they end. These counts are exact and current, but this gateway's
    alone: they stand in for what the directory does not say of a replica, and are never added to what it says.
    Whoever places a call reports its first token (:meth:`answered`) and its end (:meth:`ended`), whatever that is.

    Args:
        directory: who holds what.
        policy: orders the candidates.
        keyspace: what the calls' keys come from; a call with other block sizes is a caller's mistake.
        budget_s: the longest that a decision waits for the directory.
        known_replicas: ids of the replicas that can be reached now. If there are any, others are left out and
            those that the directory lacks are candidates without overlap.
        use_directory: False asks the policy about the known replicas and does no I/O.
        breaker: keeps a failing directory from costing each call its budget.
        claim_budget_s: the longest that the claims of one call wait together, and a withdrawal.
        names: of conversations; several routers of one gateway share them.
        in_flight: the gateway's own calls, likewise.
        leaving: replicas that are to be stopped, likewise; the gateway's pool asks it too.
        clock: seconds that never go back. Not the event loop's: uvloop's, which Ray runs its workers on, stands still
            within a turn of the loop.
    """

    def __init__(
        self,
        directory: Directory,
        policy: Policy,
        keyspace: KeySpace,
        *,
        budget_s: float = 0.010,
        known_replicas: Callable[[], Sequence[str]],
        use_directory: bool = True,
        breaker: Breaker | None = None,
        claim_budget_s: float = CLAIM_BUDGET_S,
        names: ConversationNames | None = None,
        in_flight: InFlight | None = None,
        leaving: LeavingReplicas | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = guarded(directory)
        self._policy = policy
        self._keyspace = keyspace
        self._budget_s = budget_s
        self._known_replicas = known_replicas
        self._use_directory = use_directory
        self._breaker = breaker or Breaker(clock=clock)
        self._claim_budget_s = claim_budget_s
        self._clock = clock
        self._fallback = Rendezvous()
        self._claims = Claims(self._directory, self._breaker, budget_s=claim_budget_s)
        self._names = names or ConversationNames()
        self._in_flight = InFlight() if in_flight is None else in_flight
        self._last_seen = LastSeen(self._in_flight)
        self._leaving = leaving or LeavingReplicas(clock)

    async def decide(self, call: Call) -> Decision:
        """Return an ordering of the replicas for ``call``, within the budget, and claim nothing.

        Raises:
            ValueError: the call's block size is not the key space's.
        """
        return (await self.propose(call)).placement.decision

    async def place(self, call: Call, claim_id: str, *, avoid: Collection[str] = ()) -> Placement:
        """Decide, and claim the call for the first in rank.

        Where another gateway claimed the same new prefix for another replica meanwhile, the call is decided once more,
        knowing that, and then claimed in any case: at most two lookups and two claims.

        Args:
            call: what to place.
            claim_id: the call's id in the engine.
            avoid: replicas that are not claimed for: those that were lost under this call.

        Raises:
            ValueError: the call's block size is not the key space's.
        """
        return await self.accept(call, await self.propose(call, avoid), claim_id, avoid=avoid)

    async def accept(self, call: Call, proposal: Proposal, claim_id: str, *, avoid: Collection[str] = ()) -> Placement:
        """Claim the call as :meth:`propose` proposed; see :meth:`place`."""
        try:
            return await self._accepted(call, proposal, claim_id, avoid)
        except BaseException:
            self._in_flight.end(claim_id)
            raise

    def answered(self, claim_id: str) -> None:
        """Note that a placed call has its first token."""
        self._in_flight.first_token(claim_id)

    def ended(self, claim_id: str) -> None:
        """Note that a placed call has ended in whatever way, and that nothing of it is on its replica any more."""
        self._in_flight.end(claim_id)

    async def move(self, call: Call, placement: Placement, replica: str, claim_id: str) -> Placement:
        """Claim the call for ``replica``, which got it, instead of the one in ``placement``; or for the same again."""
        self._in_flight.move(claim_id, replica)
        if placement.replica != replica:
            await self.withdraw(call, placement, claim_id)
        moved = replace(placement, replica=replica)
        outcome = await self._claimed(call, moved, claim_id, None, self._claim_budget_s)
        return replace(moved, claim=ClaimOutcome.MOVED if outcome is ClaimOutcome.CLAIMED else outcome)

    async def withdraw(self, call: Call, placement: Placement, claim_id: str) -> bool:
        """Take a claim back; return whether the directory acknowledged it. It expires by itself otherwise."""
        incarnation = placement.incarnation(placement.replica)
        if placement.claim is ClaimOutcome.NONE or not incarnation:
            return False
        return await self._claims.withdraw(Claim(claim_id, placement.replica, incarnation, call.keys))

    async def propose(self, call: Call, avoid: Collection[str] = ()) -> Proposal:
        """Decide, and claim nothing yet.

        Args:
            call: what to place.
            avoid: replicas that are not proposed: those that were lost under this call.

        Raises:
            ValueError: the call's block size is not the key space's.
        """
        call = self._named(call)
        started = self._clock()
        found = await self._candidates(call)
        looked_up_at = self._clock()
        decision = (self._fallback if found.cause else self._policy).decide(call, found.candidates)
        message = found.cause.message(self._budget_s) if found.cause else None
        if message:
            decision = replace(decision, policy="fallback", reason=f"{message}; {decision.reason}")
        placement = Placement(
            decision,
            next((estimate.replica for estimate in decision.estimates if estimate.replica not in avoid), ""),
            fallback=found.cause,
            fallback_reason=message,
            lookup_s=looked_up_at - started,
            policy_s=self._clock() - looked_up_at,
            candidates=found.candidates,
        )
        return Proposal(placement, found.unseen_from)

    async def _accepted(self, call: Call, proposal: Proposal, claim_id: str, avoid: Collection[str]) -> Placement:
        placement = proposal.placement
        self._begin(call, placement, claim_id)
        started = self._clock()
        outcome = await self._claimed(call, placement, claim_id, proposal.unseen_from, self._claim_budget_s)
        if outcome is not ClaimOutcome.CONFLICT:
            return replace(placement, claim=outcome, claim_s=self._clock() - started)
        second = (await self.propose(call, avoid)).placement
        self._begin(call, second, claim_id)
        left_s = self._claim_budget_s - (self._clock() - started - second.lookup_s)
        outcome = await self._claimed(call, second, claim_id, None, left_s)
        return replace(
            second,
            claim=ClaimOutcome.CONFLICT if outcome is ClaimOutcome.CLAIMED else outcome,
            lookup_s=placement.lookup_s + second.lookup_s,
            policy_s=placement.policy_s + second.policy_s,
            claim_s=self._clock() - started - second.lookup_s - second.policy_s,
        )

    def _named(self, call: Call) -> Call:
        if call.block_tokens != self._keyspace.block_tokens:
            raise ValueError(f"block_tokens is {call.block_tokens}; the fleet's is {self._keyspace.block_tokens}")
        return call if call.conversation else replace(call, conversation=self._names.name(call))

    def _begin(self, call: Call, placement: Placement, claim_id: str) -> None:
        self._in_flight.begin(claim_id, placement.replica, _prefill_tokens(call, placement), self._clock())

    async def _candidates(self, call: Call) -> _Found:
        known = self._known_replicas()
        if not self._use_directory:
            return _Found([stand_in(replica, self._in_flight) for replica in dict.fromkeys(known)])
        found = await self._lookup(call)
        if isinstance(found, FallbackCause):
            return self._blind(known, found)
        found = self._claims.added_to(found, call.keys)
        reachable = set(known)
        live = [candidate for candidate in found if not known or candidate.state.replica in reachable]
        if not live:
            return self._blind(known, FallbackCause.NO_REPLICA)
        staying = [candidate for candidate in live if not candidate.state.is_leaving]
        if len(live) < len(reachable):
            staying += stand_ins(known, live, self._in_flight)
        # Blocks that leave with their replica are nobody's any more.
        seen = max((candidate.claimed_blocks for candidate in found if not candidate.state.is_leaving), default=0)
        return _Found(staying or live, seen)

    def _blind(self, known: Sequence[str], cause: FallbackCause) -> _Found:
        """Return the replicas as candidates of which nothing is known now."""
        candidates = self._last_seen.candidates(known, self._clock())
        staying = self._leaving.without({candidate.state.replica: candidate for candidate in candidates})
        return _Found(list(staying.values()), cause=cause)

    async def _claimed(
        self, call: Call, placement: Placement, claim_id: str, unseen_from: int | None, budget_s: float
    ) -> ClaimOutcome:
        """Claim the call for the placement's replica; return ``CONFLICT`` if nothing is recorded for that reason."""
        replica, incarnation = placement.replica, placement.incarnation(placement.replica)
        if not self._use_directory or not incarnation:
            return ClaimOutcome.NONE
        if unseen_from is not None and unseen_from >= min(len(call.keys), MAX_LOOKUP_BLOCKS):
            unseen_from = None
        tokens = _prefill_tokens(call, placement)
        claim = Claim(claim_id, replica, incarnation, call.keys, tokens, unseen_from)
        is_recorded = await self._claims.record(claim, budget_s)
        if is_recorded is None:
            return ClaimOutcome.FAILED
        return ClaimOutcome.CLAIMED if is_recorded else ClaimOutcome.CONFLICT

    async def _lookup(self, call: Call) -> list[Candidate] | FallbackCause:
        """Return what the directory knows, or why it does not say."""
        if not self._breaker.allow():
            return FallbackCause.BREAKER_OPEN
        started = self._clock()
        try:
            async with Budget(self._budget_s, self._clock, WAITS_TO_CATCH_UP):
                found = await self._directory.lookup(call.keys)
        except TimeoutError:
            # A gateway that was busy itself says nothing of the directory.
            if not self._lagged(started):
                self._breaker.fail()
            return FallbackCause.SLOW
        except DirectoryUnavailableError:
            self._breaker.fail()
            return FallbackCause.UNREACHABLE
        self._breaker.succeed()
        self._last_seen.note(found, self._clock())
        self._leaving.note(found)
        return found

    def _lagged(self, started: float) -> bool:
        return self._clock() - started > 2 * self._budget_s


def _prefill_tokens(call: Call, placement: Placement) -> int:
    """Return how many tokens the placement's replica has to prefill for the call."""
    estimates = placement.decision.estimates
    # A policy may leave candidates out, and Serve may give one of them when those in rank are full.
    overlap = next((estimate.overlap_tokens for estimate in estimates if estimate.replica == placement.replica), 0)
    return max(0, call.prompt_tokens - overlap)
