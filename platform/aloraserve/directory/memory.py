"""The directory in this process's memory: for tests, the simulation and a platform that is one process."""

from __future__ import annotations

import heapq
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aloraserve.blocks import BlockKey
from aloraserve.directory.base import (
    CLAIM_TTL_S,
    LEASE_TTL_S,
    MAX_LOOKUP_BLOCKS,
    NODE_TTL_S,
    Candidate,
    ReplicaState,
    check_apply,
)


@dataclass(slots=True)
class _Lease:
    state: ReplicaState
    expires_at: float


@dataclass(slots=True)
class _Node:
    expires_at: float
    holders: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Claim:
    replica: str
    keys: tuple[BlockKey, ...]
    tokens: int
    expires_at: float


class MemoryDirectory:
    """See :class:`~aloraserve.directory.base.Directory`; never unavailable. For one event loop.

    Args:
        clock: seconds that never go back.
        node_ttl_s: how long a block node lives after it was last stored.
        max_nodes: the most block nodes kept; the one stored longest ago goes first.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        node_ttl_s: float = NODE_TTL_S,
        max_nodes: int = 1_000_000,
    ) -> None:
        self._clock = clock
        self._node_ttl_s = node_ttl_s
        self._max_nodes = max_nodes
        self.clear()

    def clear(self) -> None:
        """Lose everything and start a new epoch, as a backend that restarts empty does."""
        self._epoch = uuid.uuid4().hex
        self._leases: dict[str, _Lease] = {}
        self._nodes: OrderedDict[BlockKey, _Node] = OrderedDict()
        self._claims: dict[str, _Claim] = {}
        self._claimed: dict[BlockKey, dict[str, str]] = {}
        self._claim_expiries: list[tuple[float, str]] = []

    def __len__(self) -> int:
        """How many block nodes, claims and leases are kept."""
        self._expire()
        return len(self._nodes) + len(self._claims) + len(self._leases)

    async def publish(self, state: ReplicaState, *, ttl_s: float = LEASE_TTL_S) -> None:
        self._expire()
        self._leases[state.replica] = _Lease(state, self._clock() + ttl_s)
        for claim in self._claims.values():
            if claim.replica == state.replica:
                claim.tokens = 0

    async def retire(self, replica: str) -> None:
        self._leases.pop(replica, None)

    async def apply(
        self,
        replica: str,
        incarnation: str,
        *,
        stored: Sequence[BlockKey] = (),
        removed: Sequence[BlockKey] = (),
    ) -> None:
        check_apply(stored, removed)
        self._expire()
        for key in removed:
            self._remove(key, replica, incarnation)
        expires_at = self._clock() + self._node_ttl_s
        for key in stored:
            node = self._nodes.setdefault(key, _Node(expires_at))
            node.expires_at = expires_at
            node.holders[replica] = incarnation
            self._nodes.move_to_end(key)
        while len(self._nodes) > self._max_nodes:
            self._nodes.popitem(last=False)

    async def lookup(self, keys: Sequence[BlockKey]) -> list[Candidate]:
        self._expire()
        live = {replica: lease.state for replica, lease in sorted(self._leases.items())}
        held = dict.fromkeys(live, 0)
        claimed = dict.fromkeys(live, 0)
        for block, key in enumerate(keys[:MAX_LOOKUP_BLOCKS]):
            holders = self._holders(key, live)
            for replica in holders:
                if held[replica] == block:
                    held[replica] = block + 1
            for replica in holders | set(self._claimed.get(key, {}).values()):
                if claimed.get(replica) == block:
                    claimed[replica] = block + 1
            if block + 1 not in claimed.values():
                break
        tokens = self._claimed_tokens()
        return [
            Candidate(state, held[replica], claimed[replica], tokens.get(replica, 0)) for replica, state in live.items()
        ]

    async def claim(
        self,
        claim_id: str,
        replica: str,
        keys: Sequence[BlockKey],
        *,
        tokens: int,
        ttl_s: float = CLAIM_TTL_S,
    ) -> None:
        self._expire()
        self._drop_claim(claim_id)
        claim = _Claim(replica, tuple(keys[:MAX_LOOKUP_BLOCKS]), max(tokens, 0), self._clock() + ttl_s)
        self._claims[claim_id] = claim
        for key in claim.keys:
            self._claimed.setdefault(key, {})[claim_id] = replica
        heapq.heappush(self._claim_expiries, (claim.expires_at, claim_id))

    async def withdraw(self, claim_id: str, replica: str, keys: Sequence[BlockKey]) -> None:
        self._drop_claim(claim_id)

    async def states(self) -> list[ReplicaState]:
        self._expire()
        return [lease.state for _, lease in sorted(self._leases.items())]

    async def epoch(self) -> str:
        return self._epoch

    async def ping(self) -> None:
        return None

    async def close(self) -> None:
        return None

    def _holders(self, key: BlockKey, live: dict[str, ReplicaState]) -> set[str]:
        node = self._nodes.get(key)
        if node is None:
            return set()
        return {
            replica
            for replica, incarnation in node.holders.items()
            if replica in live and live[replica].incarnation == incarnation
        }

    def _claimed_tokens(self) -> dict[str, int]:
        totals: dict[str, int] = {}
        for claim in self._claims.values():
            totals[claim.replica] = totals.get(claim.replica, 0) + claim.tokens
        return totals

    def _remove(self, key: BlockKey, replica: str, incarnation: str) -> None:
        node = self._nodes.get(key)
        if node is None or node.holders.get(replica) != incarnation:
            return
        del node.holders[replica]
        if not node.holders:
            del self._nodes[key]

    def _drop_claim(self, claim_id: str) -> None:
        claim = self._claims.pop(claim_id, None)
        for key in claim.keys if claim else ():
            owners = self._claimed.get(key, {})
            owners.pop(claim_id, None)
            if not owners:
                self._claimed.pop(key, None)

    def _expire(self) -> None:
        """Drop what has run out; each thing is dropped once, so the cost is that of having added it."""
        now = self._clock()
        while self._claim_expiries and self._claim_expiries[0][0] <= now:
            _, claim_id = heapq.heappop(self._claim_expiries)
            claim = self._claims.get(claim_id)
            if claim is not None and claim.expires_at <= now:
                self._drop_claim(claim_id)
        while self._nodes and next(iter(self._nodes.values())).expires_at <= now:
            self._nodes.popitem(last=False)
        for replica in [name for name, lease in self._leases.items() if lease.expires_at <= now]:
            del self._leases[replica]
