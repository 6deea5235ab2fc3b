"""From a call to a claimed decision in bounded time, whatever state the directory is in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from aloraserve.blocks import KeySpace
from aloraserve.directory.base import LEASE_TTL_S, MAX_LOOKUP_BLOCKS, Candidate, Directory, ReplicaLoad
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.routing.base import Call, Decision, Policy
from aloraserve.routing.breaker import Breaker
from aloraserve.routing.budget import Budget
from aloraserve.routing.cost_model import is_published, unpublished
from aloraserve.routing.pending import PendingClaims
from aloraserve.routing.placement import ClaimOutcome, FallbackCause, Placement
from aloraserve.routing.rendezvous import Rendezvous

CLAIM_BUDGET_S = 0.050
WAITS_TO_CATCH_UP = 5


@dataclass(frozen=True, slots=True)
class _Found:
    """What a lookup gave: the candidates, the first block that nobody has, and the cause if there was no answer."""

    candidates: Sequence[Candidate]
    unseen_from: int | None = None
    cause: FallbackCause | None = None


class Router:
    """Asks the directory and the policy, and claims; falls back to a rendezvous hash when the directory does not help.

    No method raises for the directory's sake. A lookup that misses its budget is cancelled.

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
        self._breaker = breaker or Breaker()
        self._claim_budget_s = claim_budget_s
        self._clock = clock
        self._fallback = Rendezvous()
        self._pending = PendingClaims(keep_s=2 * budget_s)
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
        recorded = await self._claimed(call, placement, claim_id, unseen_from, self._claim_budget_s)
        if recorded is not False:
            return replace(placement, claim=recorded or ClaimOutcome.NONE, claim_s=self._clock() - started)
        again, _ = await self._decided(call, avoid)
        left_s = self._claim_budget_s - (self._clock() - started - again.lookup_s)
        recorded = await self._claimed(call, again, claim_id, None, left_s)
        is_recorded = recorded is ClaimOutcome.CLAIMED
        outcome = ClaimOutcome.CONFLICT if is_recorded else recorded or ClaimOutcome.NONE
        looked_s, thought_s = placement.lookup_s + again.lookup_s, placement.policy_s + again.policy_s
        claim_s = self._clock() - started - again.lookup_s - again.policy_s
        return replace(again, claim=outcome, lookup_s=looked_s, policy_s=thought_s, claim_s=claim_s)

    async def move(self, call: Call, placement: Placement, replica: str, claim_id: str) -> Placement:
        """Claim the call for ``replica``, which got it, instead of the one in ``placement``; or for the same again."""
        if placement.replica != replica:
            await self.withdraw(call, placement, claim_id)
        moved = replace(placement, replica=replica)
        recorded = await self._claimed(call, moved, claim_id, None, self._claim_budget_s)
        is_recorded = recorded is ClaimOutcome.CLAIMED
        return replace(moved, claim=ClaimOutcome.MOVED if is_recorded else recorded or ClaimOutcome.NONE)

    async def withdraw(self, call: Call, placement: Placement, claim_id: str) -> bool:
        """Take a claim back; return whether the directory was told. It expires by itself otherwise."""
        self._pending.drop(claim_id)
        incarnation = placement.incarnations.get(placement.replica)
        if placement.claim is ClaimOutcome.NONE or not incarnation:
            return False

        async def send() -> None:
            await self._directory.withdraw(claim_id, placement.replica, incarnation, call.keys)

        return await self._tell(send, self._claim_budget_s)

    async def _decided(self, call: Call, avoid: Collection[str] = ()) -> tuple[Placement, int | None]:
        """Return a decision that claims nothing yet, and the first block that nobody has, None if that is unknown."""
        if call.block_tokens != self._keyspace.block_tokens:
            raise ValueError(f"block_tokens is {call.block_tokens}; the fleet's is {self._keyspace.block_tokens}")
        started = self._clock()
        found = await self._candidates(call)
        asked = self._clock()
        decision = (self._fallback if found.cause else self._policy).decide(call, found.candidates)
        message = found.cause.message(self._budget_s) if found.cause else None
        if message:
            decision = replace(decision, policy="fallback", reason=f"{message}; {decision.reason}")
        replica = next((one.replica for one in decision.estimates if one.replica not in avoid), "")
        placement = Placement(
            decision,
            {one.state.replica: one.state.incarnation for one in found.candidates if is_published(one)},
            replica,
            fallback=found.cause,
            fallback_reason=message,
            labels={one.state.replica: one.state.label or one.state.replica for one in found.candidates},
            lookup_s=asked - started,
            policy_s=self._clock() - asked,
        )
        return placement, found.unseen_from

    async def _candidates(self, call: Call) -> _Found:
        known = self._known_replicas()
        if not self._use_directory:
            return _Found([unpublished(replica) for replica in dict.fromkeys(known)])
        asked_at = self._clock()
        found = await self._lookup(call)
        if isinstance(found, FallbackCause):
            return _Found(self._fallback_candidates(known), cause=found)
        found = self._pending.added_to(found, call.keys, asked_at=asked_at, now=self._clock())
        reachable = set(known)
        live = [one for one in found if not known or one.state.replica in reachable]
        if not live:
            return _Found(self._fallback_candidates(known), cause=FallbackCause.NO_REPLICA)
        return _Found(live + _missing(known, live), max(one.claimed_blocks for one in found))

    async def _claimed(
        self, call: Call, placement: Placement, claim_id: str, unseen_from: int | None, budget_s: float
    ) -> ClaimOutcome | Literal[False] | None:
        """Return what became of a claim: False where another came first, None where there is nothing to claim."""
        replica, incarnation = placement.replica, placement.incarnations.get(placement.replica)
        if not self._use_directory or not incarnation:
            return None
        # A policy may leave candidates out, and Serve may give one of them when those in rank are full.
        overlaps = {one.replica: one.overlap_tokens for one in placement.decision.estimates}
        tokens = max(0, call.prompt_tokens - overlaps.get(replica, 0))
        if unseen_from is not None and unseen_from >= min(len(call.keys), MAX_LOOKUP_BLOCKS):
            unseen_from = None
        is_first = True
        claiming: asyncio.Future[bool] | None = None

        async def send() -> None:
            nonlocal is_first, claiming
            claiming = asyncio.ensure_future(
                self._directory.claim(claim_id, replica, incarnation, call.keys, tokens=tokens, unseen_from=unseen_from)
            )
            is_first = await asyncio.shield(claiming)

        self._pending.add(claim_id, replica, call.keys, tokens)
        try:
            told = await self._tell(send, budget_s)
        except asyncio.CancelledError:
            if claiming is not None:
                # A withdrawal that overtakes its claim would leave it standing until it expires.
                await asyncio.wait({claiming}, timeout=self._claim_budget_s)
            await self.withdraw(call, replace(placement, claim=ClaimOutcome.FAILED), claim_id)
            raise
        except BaseException:
            self._pending.drop(claim_id)
            raise
        finally:
            if claiming is not None:
                _abandon(claiming)
        if told and is_first:
            self._pending.done(claim_id, self._clock())
            return ClaimOutcome.CLAIMED
        self._pending.drop(claim_id)
        return ClaimOutcome.FAILED if is_first else False

    async def _lookup(self, call: Call) -> list[Candidate] | FallbackCause:
        """Return what the directory knows, or why it does not say."""
        if not self._breaker.allow():
            return FallbackCause.BREAKER_OPEN
        started = self._clock()
        try:
            found = await self._asked(call)
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

    async def _asked(self, call: Call) -> list[Candidate]:
        """Return the directory's answer; raise TimeoutError if it is not there when the budget is over."""
        async with Budget(self._budget_s, self._clock, WAITS_TO_CATCH_UP):
            return await self._directory.lookup(call.keys)

    def _lagged(self, started: float) -> bool:
        return self._clock() - started > 2 * self._budget_s

    def _fallback_candidates(self, known: Sequence[str]) -> list[Candidate]:
        last = self._last_known()
        candidates = [last.get(replica) or unpublished(replica) for replica in dict.fromkeys(known)]
        return candidates or list(last.values())

    def _last_known(self) -> dict[str, Candidate]:
        """Return the last states seen, without their loads once those are too old to mean anything."""
        is_fresh = self._clock() - self._last_at <= LEASE_TTL_S
        states = [one.state if is_fresh else replace(one.state, load=ReplicaLoad()) for one in self._last]
        return {one.replica: Candidate(one) for one in states}

    async def _tell(self, send: Callable[[], Awaitable[None]], budget_s: float) -> bool:
        if not self._use_directory or not self._breaker.closed or budget_s <= 0:
            return False
        try:
            async with asyncio.timeout(budget_s):
                await send()
        except (TimeoutError, DirectoryUnavailableError):
            return False
        return True


def _abandon(work: asyncio.Future[bool]) -> None:
    """End what nobody waits for any more; its error is nobody's."""
    if not work.cancel() and not work.cancelled():
        work.exception()


def _missing(known: Sequence[str], live: Sequence[Candidate]) -> list[Candidate]:
    present = {one.state.replica for one in live}
    return [unpublished(replica) for replica in dict.fromkeys(known) if replica not in present]
