"""Claims on their way to the directory: recorded or withdrawn in bounded time, whatever state it is in."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from aloraserve.blocks import BlockKey
from aloraserve.directory.base import Candidate, Directory
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.routing.breaker import Breaker
from aloraserve.routing.pending import PendingClaims


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim; see :meth:`~aloraserve.directory.base.Directory.claim`.

    Args:
        claim_id: the call's id in the engine.
        replica: who is about to have the blocks.
        incarnation: which start of it.
        keys: of the prompt.
        tokens: what the replica has to prefill for it.
        unseen_from: the first block that nobody was seen to have, None if that is unknown.
    """

    claim_id: str
    replica: str
    incarnation: str
    keys: Sequence[BlockKey]
    tokens: int = 0
    unseen_from: int | None = None


class Claims:
    """Records claims and takes them back; what the directory does not take expires by itself. For one event loop.

    While the breaker is not closed nothing is sent.

    Args:
        directory: where claims are recorded.
        breaker: of that directory, shared with whoever looks things up there.
        budget_s: the longest that a withdrawal waits, and a claim that is cancelled.
    """

    def __init__(self, directory: Directory, breaker: Breaker, *, budget_s: float) -> None:
        self._directory = directory
        self._breaker = breaker
        self._budget_s = budget_s
        self._pending = PendingClaims()

    def added_to(self, candidates: Sequence[Candidate], keys: Sequence[BlockKey]) -> list[Candidate]:
        """Return what a lookup of ``keys`` has just found, with the claims that are on their way."""
        return self._pending.added_to(candidates, keys)

    async def record(self, claim: Claim, budget_s: float) -> bool | None:
        """Record a claim; it counts in :meth:`added_to` meanwhile.

        Args:
            claim: what to record.
            budget_s: the longest that this waits.

        Returns:
            True if it is recorded, False if another one for the same new prefix came first, None if the directory
            did not acknowledge it.
        """
        self._pending.add(claim.claim_id, claim.replica, claim.keys, claim.tokens)
        try:
            return await self._acknowledged(claim, budget_s)
        finally:
            self._pending.drop(claim.claim_id)

    async def withdraw(self, claim: Claim) -> bool:
        """Take a claim back; return whether the directory acknowledged it."""
        if not self._breaker.closed:
            return False
        try:
            async with asyncio.timeout(self._budget_s):
                await self._directory.withdraw(claim.claim_id, claim.replica, claim.incarnation, claim.keys)
        except (TimeoutError, DirectoryUnavailableError):
            return False
        return True

    async def _recorded(self, claim: Claim) -> bool:
        try:
            return await self._directory.claim(
                claim.claim_id,
                claim.replica,
                claim.incarnation,
                claim.keys,
                tokens=claim.tokens,
                unseen_from=claim.unseen_from,
            )
        finally:
            # In the same turn of the loop: what the directory shows must not count here too.
            self._pending.drop(claim.claim_id)

    async def _acknowledged(self, claim: Claim, budget_s: float) -> bool | None:
        if not self._breaker.closed or budget_s <= 0:
            return None
        recording = asyncio.ensure_future(self._recorded(claim))
        try:
            async with asyncio.timeout(budget_s):
                return await asyncio.shield(recording)
        except (TimeoutError, DirectoryUnavailableError):
            return None
        except asyncio.CancelledError:
            # A withdrawal that overtakes its claim would leave it standing until it expires.
            await asyncio.wait({recording}, timeout=self._budget_s)
            await self.withdraw(claim)
            raise
        finally:
            _abandon(recording)


def _abandon(work: asyncio.Future[bool]) -> None:
    """End what nobody waits for any more; its error is nobody's."""
    if not work.cancel() and not work.cancelled():
        work.exception()
