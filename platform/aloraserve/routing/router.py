"""From a call to a claimed decision in bounded time, whatever state the directory is in."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from aloraserve.blocks import KeySpace
from aloraserve.directory.base import LEASE_TTL_S, MAX_LOOKUP_BLOCKS, Candidate, Directory, ReplicaLoad
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.routing.base import Call, Decision, Policy
from aloraserve.routing.breaker import Breaker
from aloraserve.routing.budget import Budget
from aloraserve.routing.claims import Claim, Claims
from aloraserve.routing.cost_model import unpublished
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


class Router:
    """Asks the directory and the policy, and claims; falls back to a rendezvous hash when the directory does not help.

    No method raises for the directory's sake. A lookup that misses its budget is cancelled. Deadlines are the running
    event loop's, so that the simulator has them in its own time.

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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._policy = policy
        self._keyspace = keyspace
        self._budget_s = budget_s
        self._known_replicas = known_replicas
        self._use_directory = use_directory
        self._breaker = breaker or Breaker(clock=clock)
        self._claim_budget_s = claim_budget_s
        self._clock = clock
        self._fallback = Rendezvous()
        self._claims = Claims(directory, self._breaker, budget_s=claim_budget_s)
        self._last: Sequence[Candidate] = ()
        self._last_at = clock()

    async def decide(self, call: Call) -> Decision:
        """Return an ordering of the replicas for ``call``, within the budget, and claim nothing.

        Raises:
            ValueError: the call's block size is not the key space's.
        """
        placement, _ = await self._decided(call)
        return placement.decision

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
        placement, unseen_from = await self._decided(call, avoid)
        started = self._clock()
        outcome = await self._claimed(call, placement, claim_id, unseen_from, self._claim_budget_s)
        if outcome is not ClaimOutcome.CONFLICT:
            return replace(placement, claim=outcome, claim_s=self._clock() - started)
        second, _ = await self._decided(call, avoid)
        left_s = self._claim_budget_s - (self._clock() - started - second.lookup_s)
        outcome = await self._claimed(call, second, claim_id, None, left_s)
        return replace(
            second,
            claim=ClaimOutcome.CONFLICT if outcome is ClaimOutcome.CLAIMED else outcome,
            lookup_s=placement.lookup_s + second.lookup_s,
            policy_s=placement.policy_s + second.policy_s,
            claim_s=self._clock() - started - second.lookup_s - second.policy_s,
        )

    async def move(self, call: Call, placement: Placement, replica: str, claim_id: str) -> Placement:
        """Claim the call for ``replica``, which got it, instead of the one in ``placement``; or for the same again."""
        if placement.replica != replica:
            await self.withdraw(call, placement, claim_id)
        moved = replace(placement, replica=replica)
        outcome = await self._claimed(call, moved, claim_id, None, self._claim_budget_s)
        return replace(moved, claim=ClaimOutcome.MOVED if outcome is ClaimOutcome.CLAIMED else outcome)

    async def withdraw(self, call: Call, placement: Placement, claim_id: str) -> bool:
        """Take a claim back; return whether the directory acknowledged it. It expires by itself otherwise."""
        incarnation = placement.incarnations.get(placement.replica)
        if placement.claim is ClaimOutcome.NONE or not incarnation:
            return False
        return await self._claims.withdraw(Claim(claim_id, placement.replica, incarnation, call.keys))

    async def _decided(self, call: Call, avoid: Collection[str] = ()) -> tuple[Placement, int | None]:
        """Return a decision that claims nothing yet, and the first block that nobody has, None if that is unknown."""
        if call.block_tokens != self._keyspace.block_tokens:
            raise ValueError(f"block_tokens is {call.block_tokens}; the fleet's is {self._keyspace.block_tokens}")
        started = self._clock()
        found = await self._candidates(call)
        looked_up_at = self._clock()
        decision = (self._fallback if found.cause else self._policy).decide(call, found.candidates)
        message = found.cause.message(self._budget_s) if found.cause else None
        if message:
            decision = replace(decision, policy="fallback", reason=f"{message}; {decision.reason}")
        states = [candidate.state for candidate in found.candidates]
        placement = Placement(
            decision,
            {state.replica: state.incarnation for state in states if state.incarnation},
            next((estimate.replica for estimate in decision.estimates if estimate.replica not in avoid), ""),
            fallback=found.cause,
            fallback_reason=message,
            labels={state.replica: state.label or state.replica for state in states},
            lookup_s=looked_up_at - started,
            policy_s=self._clock() - looked_up_at,
        )
        return placement, found.unseen_from

    async def _candidates(self, call: Call) -> _Found:
        known = self._known_replicas()
        if not self._use_directory:
            return _Found([unpublished(replica) for replica in dict.fromkeys(known)])
        found = await self._lookup(call)
        if isinstance(found, FallbackCause):
            return _Found(self._fallback_candidates(known), cause=found)
        found = self._claims.added_to(found, call.keys)
        reachable = set(known)
        live = [candidate for candidate in found if not known or candidate.state.replica in reachable]
        if not live:
            return _Found(self._fallback_candidates(known), cause=FallbackCause.NO_REPLICA)
        if len(live) < len(reachable):
            live += _missing(known, live)
        return _Found(live, max(candidate.claimed_blocks for candidate in found))

    async def _claimed(
        self, call: Call, placement: Placement, claim_id: str, unseen_from: int | None, budget_s: float
    ) -> ClaimOutcome:
        """Claim the call for the placement's replica; return ``CONFLICT`` if nothing is recorded for that reason."""
        replica, incarnation = placement.replica, placement.incarnations.get(placement.replica)
        if not self._use_directory or not incarnation:
            return ClaimOutcome.NONE
        # A policy may leave candidates out, and Serve may give one of them when those in rank are full.
        overlaps = {estimate.replica: estimate.overlap_tokens for estimate in placement.decision.estimates}
        tokens = max(0, call.prompt_tokens - overlaps.get(replica, 0))
        if unseen_from is not None and unseen_from >= min(len(call.keys), MAX_LOOKUP_BLOCKS):
            unseen_from = None
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
        self._last, self._last_at = found, self._clock()
        return found

    def _lagged(self, started: float) -> bool:
        return self._clock() - started > 2 * self._budget_s

    def _fallback_candidates(self, known: Sequence[str]) -> list[Candidate]:
        last = self._last_known()
        candidates = [last.get(replica) or unpublished(replica) for replica in dict.fromkeys(known)]
        return candidates or list(last.values())

    def _last_known(self) -> dict[str, Candidate]:
        """Return the last states seen, without their loads once those are too old to mean anything."""
        is_fresh = self._clock() - self._last_at <= LEASE_TTL_S
        states = [
            candidate.state if is_fresh else replace(candidate.state, load=ReplicaLoad()) for candidate in self._last
        ]
        return {state.replica: Candidate(state) for state in states}


def _missing(known: Sequence[str], live: Sequence[Candidate]) -> list[Candidate]:
    present = {candidate.state.replica for candidate in live}
    return [unpublished(replica) for replica in dict.fromkeys(known) if replica not in present]
