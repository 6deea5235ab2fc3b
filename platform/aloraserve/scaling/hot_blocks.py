"""The blocks of a replica's prompts with their hits: a tree that is bounded, and never keeps its event loop waiting.

A block has a level, the binary logarithm of its hits, in half-lives: ``heat = 2 ** (level - now / half-life)``. Hits
decay by that alone, so that the order of two blocks changes only with a hit. Each tenant's tips, blocks without one
after them, are in a heap: the coldest is found without a look at the others.

Where there are too many blocks, the tenant with most of them for its weight loses its coldest. A prompt is taken in by
so many blocks at a time as take a fraction of a millisecond.
"""

from __future__ import annotations

import heapq
import itertools
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from aloraserve.adapters import AdapterRef
from aloraserve.blocks import BlockKey

STEP_BLOCKS = 64
"""Blocks that are taken in, or forgotten, at a time."""


@dataclass(frozen=True, slots=True)
class PrefixSource:
    """What, beside its tokens, decides about a prompt's block keys, and its tenant's part.

    Args:
        cache_salt: of the tenant.
        public_blocks: how many of the first blocks are everybody's.
        adapter: of the call, None for the base model.
        base_blocks: whole blocks before the adapter's activation point; with the base model it does not matter.
        weight: of the tenant beside others.
    """

    cache_salt: str | None = None
    public_blocks: int = 0
    adapter: AdapterRef | None = None
    base_blocks: int = 0
    weight: float = 1.0


@dataclass(slots=True, eq=False)
class TenantBlocks:
    """A tenant's part of the blocks.

    Args:
        weight: as its last call had it.
        count: of its blocks.
        tips: its blocks without one after them, by the level that they had when they were put here.
    """

    weight: float = 1.0
    count: int = 0
    tips: list[tuple[float, int, HotBlock]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class HotBlock:
    """A block of a prompt.

    Args:
        key: of the block.
        parent: the one before it.
        depth: how many come before it.
        tokens: its token ids, four bytes each.
        source: of the prompt that it came with.
        tenant: that it is counted for.
        level: see the module's docstring.
        hit_at: when a call last had it, in half-lives.
        children: how many blocks come after it.
        is_queued: whether it is among its tenant's tips.
    """

    key: BlockKey
    parent: HotBlock | None
    depth: int
    tokens: bytes
    source: PrefixSource
    tenant: TenantBlocks
    level: float
    hit_at: float = -math.inf
    children: int = 0
    is_queued: bool = False

    def path(self) -> list[HotBlock]:
        """Return this block and all before it, in their order."""
        path: list[HotBlock] = []
        block: HotBlock | None = self
        while block is not None:
            path.append(block)
            block = block.parent
        return path[::-1]


class HotBlocks:
    """See the module's docstring. For one event loop; other threads may read.

    Args:
        block_tokens: tokens of a block.
        most: blocks at most.
    """

    def __init__(self, block_tokens: int, most: int) -> None:
        self._width = block_tokens
        self._most = most
        self._blocks: dict[BlockKey, HotBlock] = {}
        self._tenants: dict[str | None, TenantBlocks] = {}
        self._order = itertools.count()

    def __len__(self) -> int:
        """How many blocks there are."""
        return len(self._blocks)

    def get(self, key: BlockKey) -> HotBlock | None:
        """Return a block, None if it is not here."""
        return self._blocks.get(key)

    def all(self) -> list[HotBlock]:
        """Return all blocks, whatever thread asks."""
        return list(self._blocks.values())

    def add(
        self,
        token_ids: Sequence[int],
        keys: Sequence[BlockKey],
        source: PrefixSource,
        now: float,
        heat: float | None,
        age: float = 0.0,
    ) -> Iterator[None]:
        """Take in a prompt, some blocks with each step of the iterator.

        Args:
            token_ids: of the prompt.
            keys: of its whole blocks.
            source: of the keys.
            now: in half-lives.
            heat: that its blocks have at least; None: one hit more.
            age: since a call last had it, in half-lives.
        """
        path: HotBlock | None = None
        for begin in range(0, len(keys), STEP_BLOCKS):
            if path is not None and self._blocks.get(path.key) is not path:
                # It was forgotten since the last step.
                return
            path = self._extend(path, token_ids, keys[begin : begin + STEP_BLOCKS], source, now)
            self._heat(path, begin, now, heat, age)
            self._queue(path)
            self._bound()
            yield

    def forget(self, level: float) -> bool:
        """Forget some of the blocks below a level; return whether there may be more of them."""
        left = STEP_BLOCKS
        for tenant in list(self._tenants.values()):
            left -= self._forget(tenant, left, level)
            if not left:
                return True
        return False

    def _extend(
        self,
        path: HotBlock | None,
        token_ids: Sequence[int],
        keys: Sequence[BlockKey],
        source: PrefixSource,
        now: float,
    ) -> HotBlock:
        """Return the last block of a path that goes on by some keys."""
        tenant = self._tenants.setdefault(source.cache_salt, TenantBlocks())
        tenant.weight = source.weight
        for key in keys:
            block = self._blocks.get(key)
            if block is None:
                depth = 0 if path is None else path.depth + 1
                tokens = array("I", token_ids[depth * self._width : (depth + 1) * self._width]).tobytes()
                block = self._blocks[key] = HotBlock(key, path, depth, tokens, source, tenant, -math.inf)
                tenant.count += 1
                if path is not None:
                    path.children += 1
            path = block
        assert path is not None, "there are keys"
        return path

    @staticmethod
    def _heat(last: HotBlock, begin: int, now: float, heat: float | None, age: float) -> None:
        """Heat a block and those before it, down to the depth where a step began."""
        block: HotBlock | None = last
        while block is not None and block.depth >= begin:
            if heat is None:
                block.level = now + math.log2(1.0 + 2.0 ** (block.level - now))
            else:
                block.level = max(block.level, now + math.log2(heat))
            block.hit_at = max(block.hit_at, now - age)
            block = block.parent

    def _bound(self) -> None:
        over = len(self._blocks) - self._most
        if over <= 0:
            return
        for tenant in sorted(self._tenants.values(), key=lambda tenant: -tenant.count / tenant.weight):
            over -= self._forget(tenant, over, math.inf)
            if over <= 0:
                return

    def _forget(self, tenant: TenantBlocks, most: int, below: float) -> int:
        """Forget a tenant's coldest blocks below a level; return how many."""
        forgotten = raised = 0
        while tenant.tips and forgotten < most and tenant.tips[0][0] < below:
            level, _, block = heapq.heappop(tenant.tips)
            block.is_queued = False
            if block.children:
                continue
            # It was hit since it was put there. Only so many are looked at for the coldest.
            is_raised = block.level > level and raised < STEP_BLOCKS
            if block.level >= below or is_raised:
                raised += 1
                self._queue(block)
            else:
                self._remove(block)
                forgotten += 1
        return forgotten

    def _remove(self, block: HotBlock) -> None:
        del self._blocks[block.key]
        block.tenant.count -= 1
        if not block.tenant.count:
            self._tenants.pop(block.source.cache_salt, None)
        if block.parent is not None:
            block.parent.children -= 1
            self._queue(block.parent)

    def _queue(self, block: HotBlock) -> None:
        """Have a block among the tips that may be forgotten, if it is one."""
        if not block.children and not block.is_queued:
            block.is_queued = True
            heapq.heappush(block.tenant.tips, (block.level, next(self._order), block))
