"""The directory in this process's memory: for tests, the simulation and a platform that is one process."""

from __future__ import annotations

import heapq
import math
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from aloraserve.blocks import BlockKey, KeySpace
from aloraserve.directory.base import (
    CLAIM_TTL_S,
    FAST_TIER,
    FORGET_S,
    LEASE_TTL_S,
    MAX_CLAIM_BLOCKS,
    MAX_LOOKUP_BLOCKS,
    NODE_TTL_S,
    RUN_BLOCKS,
    Candidate,
    Holding,
    ReplicaState,
    anchor,
    check_apply,
)
from aloraserve.directory.handshake import check_same
from aloraserve.directory.overlap import CLAIMED, FAST, SLOW, Overlap, OverlapWalk

_Holder = tuple[str, str]
_Ranks = dict[_Holder, int]
_NOBODY: _Ranks = {}


@dataclass(slots=True)
class _Lease:
    """A lease, and the candidate that its replica is for a prompt of which it has nothing."""

    plain: Candidate
    expires_at: float

    @property
    def state(self) -> ReplicaState:
        return self.plain.state


@dataclass(slots=True)
class _Node:
    """A run: its blocks with the tier in which each holder has them."""

    expires_at: float
    blocks: dict[BlockKey, dict[_Holder, int]] = field(default_factory=dict)


@dataclass(slots=True)
class _Claim:
    holder: _Holder
    keys: tuple[BlockKey, ...]
    tokens: int
    expires_at: float


@dataclass(frozen=True, slots=True)
class _Mark:
    """A claim's mark on a block: the claim that made it, and when it ends."""

    claim_id: str
    expires_at: float


class MemoryDirectory:
    """See :class:`~aloraserve.directory.base.Directory`; never unavailable. For one event loop.

    Args:
        clock: seconds that never go back.
        node_ttl_s: how long a node lives after something in it was last stored.
        forget_s: how long a silent replica's holdings are kept.
        max_nodes: the most nodes kept, of up to :data:`~aloraserve.directory.base.RUN_BLOCKS` blocks a chain; the one
            stored longest ago goes first.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        node_ttl_s: float = NODE_TTL_S,
        forget_s: float = FORGET_S,
        max_nodes: int = 1_000_000,
    ) -> None:
        self._clock = clock
        self._node_ttl_s = node_ttl_s
        self._forget_s = forget_s
        self._max_nodes = max_nodes
        self.clear()

    def clear(self) -> None:
        """Lose everything and start a new epoch, as a backend that restarts empty does."""
        self._epoch = uuid.uuid4().hex
        self._space: tuple[KeySpace, float] | None = None
        self._leases: dict[str, _Lease] = {}
        self._order: list[str] = []
        self._live: dict[_Holder, None] = {}
        self._next_lapse = math.inf
        self._known: dict[str, float] = {}
        self._nodes: OrderedDict[BlockKey, _Node] = OrderedDict()
        self._held_at: dict[_Holder, dict[BlockKey, None]] = {}
        self._applied_at: dict[_Holder, float] = {}
        self._claims: dict[str, _Claim] = {}
        self._marks: dict[BlockKey, dict[_Holder, _Mark]] = {}
        self._claim_expiries: list[tuple[float, str]] = []
        self._open: dict[str, dict[str, int]] = {}
        self._interned: dict[frozenset[tuple[_Holder, int]], dict[_Holder, int]] = {}

    def __len__(self) -> int:
        """How many nodes, claims and leases are kept."""
        self._expire()
        return len(self._nodes) + len(self._claims) + len(self._leases)

    async def join(self, space: KeySpace, *, ttl_s: float = LEASE_TTL_S * 5) -> None:
        now = self._clock()
        if self._space is not None and self._space[1] > now:
            check_same(self._space[0], space)
        self._space = (space, now + ttl_s)

    async def publish(self, state: ReplicaState, *, ttl_s: float = LEASE_TTL_S, settled: Sequence[str] = ()) -> None:
        self._expire()
        now = self._clock()
        last = self._leases.get(state.replica)
        self._leases[state.replica] = _Lease(Candidate(state), now + ttl_s)
        self._next_lapse = min(self._next_lapse, now + ttl_s)
        if last is None or last.state.incarnation != state.incarnation:
            self._note_leases()
        self._known[state.replica] = now
        for claim_id in settled:
            self._settle(claim_id, state.replica)

    async def retire(self, replica: str) -> None:
        self._leases.pop(replica, None)
        self._note_leases()
        self._known.pop(replica, None)
        for claim_id in list(self._open.get(replica, ())):
            self._settle(claim_id, replica)

    async def apply(
        self,
        replica: str,
        incarnation: str,
        *,
        stored: Sequence[Holding] = (),
        removed: Sequence[Holding] = (),
    ) -> None:
        check_apply(stored, removed)
        self._expire()
        holder = (replica, incarnation)
        now = self._clock()
        self._known[replica] = self._applied_at[holder] = now
        for holding in removed:
            self._remove(holding, holder)
        for holding in stored:
            self._store(holding, holder, now + self._node_ttl_s)
        while len(self._nodes) > self._max_nodes:
            self._nodes.popitem(last=False)

    async def lookup(self, keys: Sequence[BlockKey]) -> list[Candidate]:
        self._expire()
        overlaps = self._overlaps(keys[:MAX_LOOKUP_BLOCKS])
        return [self._candidate(self._leases[replica].plain, overlaps) for replica in self._order]

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
        self._expire()
        holder = (replica, incarnation)
        keys = tuple(keys[:MAX_CLAIM_BLOCKS])
        if unseen_from is not None and unseen_from < len(keys) and self._others(keys, unseen_from, holder):
            return False
        self._drop_claim(claim_id)
        expires_at = self._clock() + ttl_s
        renew_before = self._clock() + ttl_s / 2
        mark = _Mark(claim_id, expires_at)
        marked = tuple(key for key in self._not_held(keys, holder) if self._mark(mark, holder, key, renew_before))
        claim = _Claim(holder, marked, max(tokens, 0), expires_at)
        self._claims[claim_id] = claim
        self._open.setdefault(replica, {})[claim_id] = claim.tokens
        heapq.heappush(self._claim_expiries, (claim.expires_at, claim_id))
        return True

    async def withdraw(self, claim_id: str, replica: str, incarnation: str, keys: Sequence[BlockKey]) -> None:
        self._drop_claim(claim_id)

    async def states(self) -> list[ReplicaState]:
        self._expire()
        return [self._leases[replica].state for replica in self._order]

    async def epoch(self) -> str:
        return self._epoch

    async def reclaim(self, *, max_fields: int = 1024) -> int:
        self._expire()
        now = self._clock()
        self._known = {replica: at for replica, at in self._known.items() if at > now - self._forget_s}
        kept = {(replica, lease.state.incarnation) for replica, lease in self._leases.items() if replica in self._known}
        freed = 0
        for holder in [known for known in self._held_at if known not in kept]:
            silent_s = now - self._applied_at.get(holder, 0.0)
            # One that has a lease under another incarnation is superseded, unless it is just filling the next one.
            if holder[0] in self._known and (silent_s < LEASE_TTL_S or holder[0] not in self._leases):
                continue
            freed += self._free(holder, max_fields - freed)
            if freed >= max_fields:
                break
        return freed

    async def ping(self) -> None:
        return None

    async def close(self) -> None:
        return None

    def _candidate(self, plain: Candidate, overlaps: dict[_Holder, Overlap]) -> Candidate:
        state = plain.state
        overlap = overlaps.get((state.replica, state.incarnation))
        opened = self._open.get(state.replica)
        if overlap is None and opened is None:
            return plain
        overlap = overlap or Overlap(0, 0, 0)
        opened = opened or {}
        return Candidate(state, overlap.held, overlap.claimed, sum(opened.values()), overlap.fast, len(opened))

    def _note_leases(self) -> None:
        self._order = sorted(self._leases)
        self._live = {(replica, self._leases[replica].state.incarnation): None for replica in self._order}

    def _overlaps(self, keys: Sequence[BlockKey]) -> dict[_Holder, Overlap]:
        live = self._live
        runs: dict[int, Mapping[BlockKey, _Ranks]] = {}
        cache: dict[int, _Ranks] = {}

        def ranks_at(start: int, block: int) -> _Ranks:
            blocks = runs.get(start)
            if blocks is None:
                node = self._nodes.get(anchor(keys, start))
                blocks = runs[start] = node.blocks if node else {}
            tiers = blocks.get(keys[block], _NOBODY)
            marks = self._marks.get(keys[block])
            if marks is None and id(tiers) in cache:
                return cache[id(tiers)]
            ranks = {holder: FAST if tier == FAST_TIER else SLOW for holder, tier in tiers.items() if holder in live}
            if marks is None:
                cache[id(tiers)] = ranks
                return ranks
            return {holder: CLAIMED for holder in marks if holder in live} | ranks

        return OverlapWalk(ranks_at).run(keys)

    def _store(self, holding: Holding, holder: _Holder, expires_at: float) -> None:
        key, name, _, tier = holding
        node = self._nodes.get(name)
        if node is None:
            node = self._nodes[name] = _Node(expires_at)
        elif node.expires_at != expires_at:
            node.expires_at = expires_at
            self._nodes.move_to_end(name)
        tiers = node.blocks.get(key)
        if tiers is None or tiers.get(holder) != tier:
            node.blocks[key] = self._intern({**tiers, holder: tier} if tiers else {holder: tier})
        self._held_at.setdefault(holder, {})[name] = None
        marks = self._marks.get(key)
        if marks is not None:
            marks.pop(holder, None)
            if not marks:
                del self._marks[key]

    def _remove(self, holding: Holding, holder: _Holder) -> None:
        node = self._nodes.get(holding.anchor)
        tiers = node.blocks.get(holding.key) if node else None
        if node is None or tiers is None or holder not in tiers:
            return
        if len(tiers) > 1:
            node.blocks[holding.key] = self._intern({other: tier for other, tier in tiers.items() if other != holder})
            return
        del node.blocks[holding.key]
        if not node.blocks:
            del self._nodes[holding.anchor]

    def _intern(self, tiers: dict[_Holder, int]) -> dict[_Holder, int]:
        """Return one object for equal holders: blocks of a run mostly have the same ones."""
        if len(self._interned) > self._max_nodes:
            self._interned.clear()
        return self._interned.setdefault(frozenset(tiers.items()), tiers)

    def _free(self, holder: _Holder, limit: int) -> int:
        freed = 0
        runs = self._held_at[holder]
        while runs and freed < limit:
            name = next(iter(runs))
            node = self._nodes.get(name)
            for key in [key for key, tiers in node.blocks.items() if holder in tiers] if node else ():
                self._remove(Holding(key, name, name), holder)
                freed += 1
            del runs[name]
        if not runs:
            del self._held_at[holder]
            self._applied_at.pop(holder, None)
        return freed

    def _others(self, keys: Sequence[BlockKey], block: int, holder: _Holder) -> bool:
        node = self._nodes.get(anchor(keys, block))
        holders = set(node.blocks.get(keys[block], ()) if node else ()) | set(self._marks.get(keys[block], ()))
        return bool((holders & self._live.keys()) - {holder})

    def _not_held(self, keys: Sequence[BlockKey], holder: _Holder) -> Iterator[BlockKey]:
        """Yield the keys that a holder does not have; of a run whose last block it has, it has all."""
        for start in range(0, len(keys), RUN_BLOCKS):
            run = keys[start : start + RUN_BLOCKS]
            node = self._nodes.get(anchor(keys, start))
            if node is None:
                yield from run
            elif holder not in node.blocks.get(run[-1], ()):
                yield from (key for key in run if holder not in node.blocks.get(key, ()))

    def _mark(self, mark: _Mark, holder: _Holder, key: BlockKey, renew_before: float) -> bool:
        """Mark a block; return whether the mark is this one or was renewed."""
        marks = self._marks.setdefault(key, {})
        there = marks.setdefault(holder, mark)
        if there is mark:
            return True
        if there.expires_at >= renew_before:
            return False
        marks[holder] = _Mark(there.claim_id, mark.expires_at)
        return True

    def _settle(self, claim_id: str, replica: str) -> None:
        opened = self._open.get(replica, {})
        opened.pop(claim_id, None)
        if not opened:
            self._open.pop(replica, None)

    def _drop_claim(self, claim_id: str) -> None:
        claim = self._claims.pop(claim_id, None)
        if claim is None:
            return
        self._settle(claim_id, claim.holder[0])
        now = self._clock()
        for key in claim.keys:
            marks = self._marks.get(key, {})
            mark = marks.get(claim.holder)
            if mark is None:
                continue
            # Another claim may have made the mark, or renewed it since.
            ended = mark.expires_at <= now
            if ended or (claim.expires_at > now and (mark.claim_id == claim_id or mark.claim_id not in self._claims)):
                del marks[claim.holder]
            if not marks:
                self._marks.pop(key, None)

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
        if self._leases and now >= self._next_lapse:
            self._leases = {name: lease for name, lease in self._leases.items() if lease.expires_at > now}
            self._next_lapse = min((lease.expires_at for lease in self._leases.values()), default=math.inf)
            self._note_leases()
