"""The prefixes that a replica's calls had most of lately: what another replica should have before its first call.

They are kept as a tree of blocks. Each call adds one hit to every block of its prompt, and hits are halved every
``HALF_LIFE_S``: the heat. A block has never more heat than the one before it, so the hottest blocks are whole prefixes.
A block's worth is its hits times the seconds that its prefill takes. Within a budget of seconds those with the most
worth per second come first, which are those with the most hits.

Prompts are in memory here, with their tenants' salts, and go to other replicas of the fleet alone: never to a log, a
disk or a server.
"""

from __future__ import annotations

import heapq
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from aloraserve.adapters import AdapterRef
from aloraserve.blocks import BlockKey

HALF_LIFE_S = 300.0
MAX_TOKENS = 262_144
"""Tokens that are remembered; the coldest are forgotten first."""
MAX_BLOCKS = 16_384
KEPT = 0.75
"""Share of the bounds that is kept when they are reached, so that few calls pay for looking at all blocks."""
BRANCHES = 2.0
"""A prefix of its own ends where the block after it has so many times less heat."""


@dataclass(frozen=True, slots=True)
class HotPrefix:
    """Whole blocks of prompts, from the first token on.

    Args:
        token_ids: of all blocks.
        tip: key of the last block.
        heat: hits of the last block, decayed.
        cache_salt: of the tenant.
        public_blocks: how many of the first blocks are everybody's.
        adapter: that the last block is of, None for the base model's.
    """

    token_ids: Sequence[int]
    tip: BlockKey
    heat: float
    cache_salt: str | None = None
    public_blocks: int = 0
    adapter: AdapterRef | None = None


@dataclass(frozen=True, slots=True)
class PrefixSource:
    """What, beside its tokens, decides about a prompt's block keys.

    Args:
        cache_salt: of the tenant.
        public_blocks: how many of the first blocks are everybody's.
        adapter: of the call, None for the base model.
        base_blocks: whole blocks before the adapter's activation point; with the base model it does not matter.
    """

    cache_salt: str | None = None
    public_blocks: int = 0
    adapter: AdapterRef | None = None
    base_blocks: int = 0


@dataclass(slots=True, eq=False)
class _Block:
    key: BlockKey
    parent: _Block | None
    depth: int
    tokens: bytes
    source: PrefixSource
    heat: float
    touched_at: float


class HotPrefixes:
    """See the module's docstring. For one event loop.

    Args:
        block_tokens: tokens of a block.
        half_life_s: see :data:`HALF_LIFE_S`.
        max_tokens: see :data:`MAX_TOKENS`.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        block_tokens: int,
        *,
        half_life_s: float = HALF_LIFE_S,
        max_tokens: int = MAX_TOKENS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._width = block_tokens
        self._half_life_s = half_life_s
        self._most = min(max_tokens // block_tokens, MAX_BLOCKS)
        self._clock = clock
        self._blocks: dict[BlockKey, _Block] = {}

    def __len__(self) -> int:
        """How many blocks are remembered."""
        return len(self._blocks)

    def note(self, token_ids: Sequence[int], keys: Sequence[BlockKey], source: PrefixSource) -> None:
        """Add a hit to a prompt's blocks.

        Args:
            token_ids: of the prompt.
            keys: of its whole blocks; those beyond what can be remembered are passed over.
            source: of the keys.
        """
        now = self._clock()
        for block in self._path(token_ids, keys, source, now):
            block.heat = self._heat(block, now) + 1
            block.touched_at = now
        self._bound(now)

    def warm(self, token_ids: Sequence[int], keys: Sequence[BlockKey], source: PrefixSource, heat: float) -> None:
        """Have a prompt's blocks at least as hot as another replica found them."""
        now = self._clock()
        for block in self._path(token_ids, keys, source, now):
            block.heat = max(self._heat(block, now), heat)
            block.touched_at = now
        self._bound(now)

    def keys(self, prefix: HotPrefix) -> list[BlockKey]:
        """Return the block keys of a prefix that is remembered; an empty list if it was forgotten."""
        return [block.key for block in self._before(self._blocks.get(prefix.tip))]

    def hottest(self, max_tokens: int, max_prefixes: int) -> list[HotPrefix]:
        """Return the hottest prefixes, hottest first.

        Where many prompts go on from one, that one is a prefix of its own, and comes before them.

        Args:
            max_tokens: of all prefixes together, counted for each as often as it has them.
            max_prefixes: how many.
        """
        now = self._clock()
        chosen = {block.key for block in self._hottest_blocks(now, max_tokens // self._width)}
        ends = dict.fromkeys(chosen, 0.0)
        for key in chosen:
            block = self._blocks[key]
            if block.parent is not None and block.parent.key in ends:
                ends[block.parent.key] = max(ends[block.parent.key], self._heat(block, now))
        tips = [
            block
            for block, next_heat in ((self._blocks[key], heat) for key, heat in ends.items())
            if self._heat(block, now) >= BRANCHES * next_heat
        ]
        return self._within(sorted(tips, key=lambda tip: (-self._heat(tip, now), tip.depth)), max_tokens, max_prefixes)

    def _within(self, tips: Iterable[_Block], max_tokens: int, max_prefixes: int) -> list[HotPrefix]:
        found: list[HotPrefix] = []
        tokens, now = 0, self._clock()
        for tip in tips:
            tokens += (tip.depth + 1) * self._width
            if tokens > max_tokens or len(found) == max_prefixes:
                break
            found.append(self._prefix(tip, now))
        return found

    def _path(
        self, token_ids: Sequence[int], keys: Sequence[BlockKey], source: PrefixSource, now: float
    ) -> list[_Block]:
        """Return the blocks of a prompt, which are remembered from now on."""
        path: list[_Block] = []
        for depth, key in enumerate(keys[: int(self._most * KEPT)]):
            block = self._blocks.get(key)
            if block is None:
                parent, tokens = path[-1] if path else None, self._tokens(token_ids, depth)
                block = self._blocks[key] = _Block(key, parent, depth, tokens, source, 0.0, now)
            path.append(block)
        return path

    def _prefix(self, tip: _Block, now: float) -> HotPrefix:
        source = tip.source
        is_base = source.adapter is None or tip.depth < source.base_blocks
        return HotPrefix(
            array("I", b"".join(block.tokens for block in self._before(tip))).tolist(),
            tip.key,
            self._heat(tip, now),
            source.cache_salt,
            min(source.public_blocks, tip.depth + 1),
            None if is_base else source.adapter,
        )

    @staticmethod
    def _before(tip: _Block | None) -> list[_Block]:
        """Return a block and all before it, in their order."""
        path: list[_Block] = []
        while tip is not None:
            path.append(tip)
            tip = tip.parent
        return path[::-1]

    def _hottest_blocks(self, now: float, count: int) -> list[_Block]:
        """Return so many blocks; with each all those before it."""
        return heapq.nsmallest(count, self._blocks.values(), key=lambda block: (-self._heat(block, now), block.depth))

    def _bound(self, now: float) -> None:
        """Forget the coldest blocks if there are too many."""
        if len(self._blocks) <= self._most:
            return
        kept = self._hottest_blocks(now, int(self._most * KEPT))
        self._blocks = {block.key: block for block in kept}

    def _heat(self, block: _Block, now: float) -> float:
        return float(block.heat * 0.5 ** ((now - block.touched_at) / self._half_life_s))

    def _tokens(self, token_ids: Sequence[int], depth: int) -> bytes:
        return array("I", token_ids[depth * self._width : (depth + 1) * self._width]).tobytes()


def merged(lists: Iterable[Iterable[HotPrefix]]) -> list[HotPrefix]:
    """Return what several replicas found hot, hottest first, each prefix with the hits of all."""
    found: dict[BlockKey, HotPrefix] = {}
    heat: dict[BlockKey, float] = {}
    for prefix in (prefix for prefixes in lists for prefix in prefixes):
        found.setdefault(prefix.tip, prefix)
        heat[prefix.tip] = heat.get(prefix.tip, 0.0) + prefix.heat
    return sorted(found.values(), key=lambda prefix: (-heat[prefix.tip], len(prefix.token_ids)))
