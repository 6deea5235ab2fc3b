"""A directory around another one: the base of everything that wraps the contract from outside."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from typing import TypeVar

from aloraserve.blocks import BlockKey, KeySpace
from aloraserve.directory.base import (
    CLAIM_TTL_S,
    LEASE_TTL_S,
    LEAVING_TTL_S,
    Candidate,
    Directory,
    Epoch,
    Holding,
    ReplicaState,
)

AnswerT = TypeVar("AnswerT")


class DirectoryWrapper:
    """See :class:`~aloraserve.directory.base.Directory`; every call but ``close`` goes through :meth:`_through`.

    Args:
        directory: the one behind.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    async def _through(self, name: str, call: Callable[[], Awaitable[AnswerT]]) -> AnswerT:
        """Make the call ``name`` of the contract; a subclass does its own before, after or instead."""
        return await call()

    async def join(self, space: KeySpace, *, ttl_s: float = LEASE_TTL_S * 5) -> None:
        await self._through("join", lambda: self._directory.join(space, ttl_s=ttl_s))

    async def publish(self, state: ReplicaState, *, ttl_s: float = LEASE_TTL_S, settled: Sequence[str] = ()) -> None:
        await self._through("publish", lambda: self._directory.publish(state, ttl_s=ttl_s, settled=settled))

    async def retire(self, replica: str) -> None:
        await self._through("retire", lambda: self._directory.retire(replica))

    async def mark_leaving(self, replica: str, *, ttl_s: float = LEAVING_TTL_S) -> None:
        await self._through("mark_leaving", lambda: self._directory.mark_leaving(replica, ttl_s=ttl_s))

    async def apply(
        self,
        replica: str,
        incarnation: str,
        *,
        stored: Sequence[Holding] = (),
        removed: Sequence[Holding] = (),
        fence: int = 0,
        former: Sequence[str] = (),
    ) -> Set[str]:
        return await self._through(
            "apply",
            lambda: self._directory.apply(
                replica, incarnation, stored=stored, removed=removed, fence=fence, former=former
            ),
        )

    async def lookup(self, keys: Sequence[BlockKey]) -> list[Candidate]:
        return await self._through("lookup", lambda: self._directory.lookup(keys))

    async def claim(
        self,
        claim_id: str,
        replica: str,
        incarnation: str,
        keys: Sequence[BlockKey],
        *,
        tokens: int,
        ttl_s: float = CLAIM_TTL_S,
        unseen_from: int | None = None,
    ) -> bool:
        return await self._through(
            "claim",
            lambda: self._directory.claim(
                claim_id, replica, incarnation, keys, tokens=tokens, ttl_s=ttl_s, unseen_from=unseen_from
            ),
        )

    async def withdraw(self, claim_id: str, replica: str, incarnation: str, keys: Sequence[BlockKey]) -> None:
        await self._through("withdraw", lambda: self._directory.withdraw(claim_id, replica, incarnation, keys))

    async def states(self) -> list[ReplicaState]:
        return await self._through("states", self._directory.states)

    def part(self, head: BlockKey) -> str:
        return self._directory.part(head)

    async def epoch(self) -> Mapping[str, Epoch]:
        return await self._through("epoch", self._directory.epoch)

    async def reclaim(self, *, max_fields: int = 1024) -> int:
        return await self._through("reclaim", lambda: self._directory.reclaim(max_fields=max_fields))

    async def ping(self) -> None:
        await self._through("ping", self._directory.ping)

    async def close(self) -> None:
        await self._directory.close()
