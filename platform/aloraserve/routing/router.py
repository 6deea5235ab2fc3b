"""From a call to a decision in bounded time, whatever state the directory is in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from aloraserve.blocks import KeySpace
from aloraserve.directory.base import LEASE_TTL_S, Candidate, Directory, ReplicaLoad
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.routing.base import Call, Decision, Policy
from aloraserve.routing.breaker import Breaker
from aloraserve.routing.load import unpublished
from aloraserve.routing.rendezvous import Rendezvous

CLAIM_BUDGET_S = 0.050
TURNS_TO_CATCH_UP = 20


class Router:
    """Asks the directory and the policy; falls back to a rendezvous hash when the directory does not help.

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
        claim_budget_s: the longest that :meth:`claim` and :meth:`withdraw` wait.
        clock: seconds that never go back.
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
        self._last: dict[str, Candidate] = {}
        self._last_at = clock()

    async def decide(self, call: Call) -> Decision:
        """Return an ordering of the replicas for ``call``, within the budget.

        Raises:
            ValueError: the call's block size is not the key space's.
        """
        if call.block_tokens != self._keyspace.block_tokens:
            raise ValueError(f"block_tokens is {call.block_tokens}; the fleet's is {self._keyspace.block_tokens}")
        known = self._known_replicas()
        if not self._use_directory:
            return self._policy.decide(call, [unpublished(replica) for replica in known])
        found = await self._lookup(call)
        if isinstance(found, str):
            return self._fall_back(call, known, found)
        live = [one for one in found if not known or one.state.replica in set(known)]
        if not live:
            return self._fall_back(call, known, "the directory has no live replica")
        return self._policy.decide(call, live + _missing(known, live))

    async def claim(self, call: Call, decision: Decision, replica: str, claim_id: str) -> bool:
        """Record that ``replica`` is about to have the call's blocks; return whether that worked."""
        overlap = next((one.overlap_tokens for one in decision.estimates if one.replica == replica), 0)
        tokens = max(0, call.prompt_tokens - overlap)
        return await self._tell(lambda: self._directory.claim(claim_id, replica, call.keys, tokens=tokens))

    async def withdraw(self, call: Call, replica: str, claim_id: str) -> bool:
        """Take a claim back; return whether the directory was told. It expires by itself otherwise."""
        return await self._tell(lambda: self._directory.withdraw(claim_id, replica, call.keys))

    async def _lookup(self, call: Call) -> list[Candidate] | str:
        """Return what the directory knows, or why it does not say."""
        if not self._breaker.allow():
            return "the directory failed repeatedly and is left alone for a moment"
        started = asyncio.get_running_loop().time()
        try:
            found = await self._asked(call)
        except TimeoutError:
            # A gateway that was busy itself says nothing of the directory.
            if not self._lagged(started):
                self._breaker.fail()
            return f"the directory did not answer within {self._budget_s * 1000:g} ms"
        except DirectoryUnavailableError:
            # The reason goes to clients, so the server's address is no part of it.
            self._breaker.fail()
            return "the directory cannot be reached"
        self._breaker.succeed()
        self._remember(found)
        return found

    async def _asked(self, call: Call) -> list[Candidate]:
        """Return the directory's answer; raise TimeoutError if it is not there when the budget is over.

        Something that held this process up may have used the budget while the answer lay unread in the socket: then it
        is read first.
        """
        started = asyncio.get_running_loop().time()
        asking = asyncio.ensure_future(self._directory.lookup(call.keys))
        try:
            await asyncio.wait({asking}, timeout=self._budget_s)
            for _ in range(TURNS_TO_CATCH_UP if self._lagged(started) else 0):
                if asking.done():
                    break
                await asyncio.sleep(0)
            if not asking.done():
                raise TimeoutError
            return asking.result()
        finally:
            asking.cancel()

    def _lagged(self, started: float) -> bool:
        return asyncio.get_running_loop().time() - started > 2 * self._budget_s

    def _remember(self, found: Sequence[Candidate]) -> None:
        self._last = {one.state.replica: Candidate(one.state) for one in found}
        self._last_at = self._clock()

    def _fall_back(self, call: Call, known: Sequence[str], cause: str) -> Decision:
        last = self._last_known()
        candidates = [last.get(replica) or unpublished(replica) for replica in dict.fromkeys(known)]
        decision = self._fallback.decide(call, candidates or list(last.values()))
        return replace(decision, policy="fallback", reason=f"{cause}; {decision.reason}")

    def _last_known(self) -> dict[str, Candidate]:
        """Return the last states seen, without their loads once those are too old to mean anything."""
        if self._clock() - self._last_at <= LEASE_TTL_S:
            return self._last
        return {replica: Candidate(replace(one.state, load=ReplicaLoad())) for replica, one in self._last.items()}

    async def _tell(self, send: Callable[[], Awaitable[None]]) -> bool:
        if not self._use_directory or not self._breaker.closed:
            return False
        try:
            async with asyncio.timeout(self._claim_budget_s):
                await send()
        except (TimeoutError, DirectoryUnavailableError):
            return False
        return True


def _missing(known: Sequence[str], live: Sequence[Candidate]) -> list[Candidate]:
    present = {one.state.replica for one in live}
    return [unpublished(replica) for replica in dict.fromkeys(known) if replica not in present]
