"""The directory in this process's memory: for tests, the simulation and a platform that is one process."""

from __future__ import annotations

import heapq
import math
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from aloraserve.blocks import BlockKey, KeySpace
from aloraserve.directory.base import (
    CLAIM_TTL_S,
    FAST_TIER,
    FORGET_S,
    LEASE_TTL_S,
    LEAVING_TTL_S,
    MAX_LOOKUP_BLOCKS,
    NODE_TTL_S,
    Candidate,
    Epoch,
    Holding,
    ReplicaState,
    anchor,
    check_apply,
)
from aloraserve.directory.claimed_blocks import ClaimedBlocks, marks_of
from aloraserve.directory.handshake import check_same
from aloraserve.directory.overlap import FAST, SLOW, Overlap, OverlapWalk

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


@dataclass(frozen=True, slots=True)
class _Claim:
    """Tokens claimed for a replica that its load does not include yet."""

    tokens: int
    expires_at: float


@dataclass(frozen=True, slots=True)
class _First:
    """Who claimed a block first."""

    claim_id: str
    holder: _Holder


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
        self._epoch = Epoch(uuid.uuid4().hex)
        self._space: tuple[KeySpace, float] | None = None
        self._leases: dict[str, _Lease] = {}
        self._order: list[str] = []
        self._live: dict[_Holder, None] = {}
        self._next_lapse = math.inf
        self._known: dict[str, float] = {}
        self._leaving: dict[str, float] = {}
        self._nodes: OrderedDict[BlockKey, _Node] = OrderedDict()
        self._held_at: dict[_Holder, dict[BlockKey, None]] = {}
        self._applied_at: dict[_Holder, float] = {}
        self._fences: dict[_Holder, int] = {}
        self._claimed: ClaimedBlocks[_Holder] = ClaimedBlocks()
        self._open: dict[str, dict[str, _Claim]] = {}
        self._ends: list[tuple[float, str, str]] = []
        self._firsts: dict[BlockKey, _First] = {}
        self._first_of: dict[str, BlockKey] = {}
        self._first_ends: list[tuple[float, str]] = []
        self._interned: dict[frozenset[tuple[_Holder, int]], dict[_Holder, int]] = {}

    def __len__(self) -> int:
        """How many nodes, claims and leases are kept."""
        self._expire()
        return len(self._nodes) + len(self._claimed) + len(self._firsts) + len(self._leases)

    async def join(self, space: KeySpace, *, ttl_s: float = LEASE_TTL_S * 5) -> None:
        now = self._clock()
        if self._space is not None and self._space[1] > now:
            check_same(self._space[0], space)
        if ttl_s:
            self._space = (space, now + ttl_s)

    async def publish(self, state: ReplicaState, *, ttl_s: float = LEASE_TTL_S, settled: Sequence[str] = ()) -> None:
        self._expire()
        now = self._clock()
        last = self._leases.get(state.replica)
        self._leases[state.replica] = _Lease(Candidate(self._marked(state)), now + ttl_s)
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

    async def mark_leaving(self, replica: str, *, ttl_s: float = LEAVING_TTL_S) -> None:
        self._expire()
        if ttl_s:
            self._leaving[replica] = self._clock() + ttl_s
        else:
            self._leaving.pop(replica, None)
        self._show_mark(replica)

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
        check_apply(stored, removed, former)
        self._expire()
        holder = (replica, incarnation)
        now = self._clock()
        if fence < self._fences.get(holder, 0):
            return frozenset()
        is_new = holder not in self._applied_at
        self._fences[holder] = fence
        self._known[replica] = self._applied_at[holder] = now
        for name in former:
            for holding in (*stored, *removed):
                self._remove(holding, (replica, name))
        for holding in removed:
            self._remove(holding, holder)
        for holding in stored:
            self._store(holding, holder, now + self._node_ttl_s)
        while len(self._nodes) > self._max_nodes:
            self._nodes.popitem(last=False)
        return {""} if is_new else frozenset()

    async def lookup(self, keys: Sequence[BlockKey]) -> list[Candidate]:
        self._expire()
        keys = keys[:MAX_LOOKUP_BLOCKS]
        overlaps, claimed = self._overlaps(keys), self._claimed.overlaps(keys)
        return [self._candidate(self._leases[replica].plain, overlaps, claimed) for replica in self._order]

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
        holder, ends_at = (replica, incarnation), self._clock() + ttl_s
        if unseen_from is not None and unseen_from < len(keys):
            key = keys[unseen_from]
            first = self._firsts.get(key)
            if first is not None and first.holder[0] != replica and first.holder in self._live:
                return False
            self._firsts[key] = _First(claim_id, holder)
            self._first_of[claim_id] = key
            heapq.heappush(self._first_ends, (ends_at, claim_id))
        self._claimed.add((claim_id, holder), holder, marks_of(keys), ends_at)
        self._open.setdefault(replica, {})[claim_id] = _Claim(max(tokens, 0), ends_at)
        heapq.heappush(self._ends, (ends_at, claim_id, replica))
        return True

    async def withdraw(self, claim_id: str, replica: str, incarnation: str, keys: Sequence[BlockKey]) -> None:
        self._claimed.remove((claim_id, (replica, incarnation)))
        self._settle(claim_id, replica)
        self._drop_first(claim_id)

    async def states(self) -> list[ReplicaState]:
        self._expire()
        return [self._leases[replica].state for replica in self._order]

    def part(self, head: BlockKey) -> str:
        return ""

    async def epoch(self) -> Mapping[str, Epoch]:
        return {"": self._epoch}

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

    def _candidate(
        self, plain: Candidate, overlaps: Mapping[_Holder, Overlap], claimed: Mapping[_Holder, int]
    ) -> Candidate:
        state = plain.state
        holder = (state.replica, state.incarnation)
        overlap, about, opened = overlaps.get(holder), claimed.get(holder, 0), self._open.get(state.replica)
        if overlap is None and not about and opened is None:
            return plain
        overlap, opened = overlap or Overlap(0, 0), opened or {}
        tokens = sum(claim.tokens for claim in opened.values())
        return Candidate(state, overlap.held, max(overlap.held, about), tokens, overlap.fast, len(opened))

    def _marked(self, state: ReplicaState) -> ReplicaState:
        is_leaving = state.replica in self._leaving
        return state if state.is_leaving == is_leaving else replace(state, is_leaving=is_leaving)

    def _show_mark(self, replica: str) -> None:
        lease = self._leases.get(replica)
        if lease is not None:
            lease.plain = Candidate(self._marked(lease.state))

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
            ranks = cache.get(id(tiers))
            if ranks is None:
                ranks = cache[id(tiers)] = {
                    holder: FAST if tier == FAST_TIER else SLOW for holder, tier in tiers.items() if holder in live
                }
            return ranks

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
        self._applied_at.pop(holder, None)
        while runs and freed < limit:
            name = next(iter(runs))
            node = self._nodes.get(name)
            for key in [key for key, tiers in node.blocks.items() if holder in tiers] if node else ():
                self._remove(Holding(key, name, name), holder)
                freed += 1
            del runs[name]
        if not runs:
            del self._held_at[holder]
            self._fences.pop(holder, None)
        return freed

    def _settle(self, claim_id: str, replica: str) -> None:
        opened = self._open.get(replica, {})
        opened.pop(claim_id, None)
        if not opened:
            self._open.pop(replica, None)

    def _drop_first(self, claim_id: str) -> None:
        """Forget which block a claim was the first for, unless another one took its place."""
        key = self._first_of.pop(claim_id, None)
        if key is not None and key in self._firsts and self._firsts[key].claim_id == claim_id:
            del self._firsts[key]

    def _expire(self) -> None:
        """Drop what has run out; each thing is dropped once, so the cost is that of having added it."""
        now = self._clock()
        self._claimed.expire(now)
        for replica in [replica for replica, ends_at in self._leaving.items() if ends_at <= now]:
            del self._leaving[replica]
            self._show_mark(replica)
        while self._ends and self._ends[0][0] <= now:
            _, claim_id, replica = heapq.heappop(self._ends)
            claim = self._open.get(replica, {}).get(claim_id)
            if claim is not None and claim.expires_at <= now:
                self._settle(claim_id, replica)
        while self._first_ends and self._first_ends[0][0] <= now:
            self._drop_first(heapq.heappop(self._first_ends)[1])
        while self._nodes and next(iter(self._nodes.values())).expires_at <= now:
            self._nodes.popitem(last=False)
        if self._leases and now >= self._next_lapse:
            self._leases = {name: lease for name, lease in self._leases.items() if lease.expires_at > now}
            self._next_lapse = min((lease.expires_at for lease in self._leases.values()), default=math.inf)
            self._note_leases()
