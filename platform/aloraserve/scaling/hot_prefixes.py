"""The prefixes that a replica's calls had most of lately, and last: what another replica should have of them.

They are kept as a tree of blocks. Each call adds one hit to every block of its prompt, and hits are halved every
``HALF_LIFE_S``: the heat. A block has never more heat than the one before it, so the hottest blocks are whole prefixes.
A block's worth is its hits times the seconds that its prefill takes. Within a budget of seconds those with the most
worth per second come first, which are those with the most hits. Tenants take turns, by their weights.

That is what a new replica computes before its first call. Of one that leaves, the prompts of the last calls come first,
however few hits they had: their conversations go on. What has hits and is older may be a conversation that is over;
it would take the place of one that goes on in another replica's cache, which evicts by last use, too.

Prompts are in memory here, with their tenants' salts, and go to other replicas of the fleet alone: never to a log, a
disk or a server. What has had too few hits is forgotten.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from aloraserve.adapters import AdapterRef
from aloraserve.blocks import BlockKey
from aloraserve.scaling.hot_blocks import HotBlock, HotBlocks, PrefixSource
from aloraserve.scaling.tenant_turns import Share, in_turns

HALF_LIFE_S = 300.0
MAX_TOKENS = 1_048_576
"""Tokens that are remembered, four bytes each: about as many as a large KV cache has."""
MAX_BLOCKS = 16_384
MAX_SENT_TOKENS = 49_152
"""Of the prefixes that a replica sends to a new one."""
MAX_SENT = 256
MAX_PEERS = 8
"""Replicas that a new one asks; those that hold most."""
FILLED = 0.5
"""Share of a KV cache that is filled before the first call, or for one that leaves: the rest is for what comes."""
MOST_OF_A_PROMPT = 0.75
"""Share of the bounds that one prompt may have."""
LEAST_HEAT = 0.1
"""Hits below which a block is forgotten: of one call after 17 minutes, of a thousand after 67."""
BRANCHES = 2.0
"""A prefix of its own ends where the block after it has so many times less heat."""
RECENT_S = 120.0
"""A prompt that no call went on from for so long is not handed over: a full cache would soon have evicted it."""
ROUNDING = 1e-6
"""Of levels."""


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
        weight: of the tenant beside others.
        age_s: since a call last had it.
        known_blocks: of it, that the replica which is to compute it has already, or is given before.
    """

    token_ids: Sequence[int]
    tip: BlockKey
    heat: float
    cache_salt: str | None = None
    public_blocks: int = 0
    adapter: AdapterRef | None = None
    weight: float = 1.0
    age_s: float = 0.0
    known_blocks: int = 0

    @property
    def tokens(self) -> int:
        """How many it has."""
        return len(self.token_ids)


class _Tip(NamedTuple):
    block: HotBlock
    tokens: int
    heat: float


class HotPrefixes:
    """See the module's docstring. For one event loop; :meth:`hottest` may run on another thread.

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
        most = min(max_tokens // block_tokens, MAX_BLOCKS)
        self._most_of_a_prompt = int(most * MOST_OF_A_PROMPT)
        self._clock = clock
        self._blocks = HotBlocks(block_tokens, most)

    def __len__(self) -> int:
        """How many blocks are remembered."""
        return len(self._blocks)

    def note(
        self,
        token_ids: Sequence[int],
        keys: Sequence[BlockKey],
        source: PrefixSource,
        heat: float | None = None,
        age_s: float = 0.0,
    ) -> Iterator[None]:
        """Add a hit to a prompt's blocks, some of them with each step of the iterator.

        Args:
            token_ids: of the prompt.
            keys: of its whole blocks; those beyond what can be remembered are passed over.
            source: of the keys.
            heat: what they have at least, as another replica found them; None: a hit is added.
            age_s: since a call last had them, likewise.
        """
        if heat is None or heat >= LEAST_HEAT:
            yield from self._blocks.add(
                token_ids, keys[: self._most_of_a_prompt], source, self._now, heat, age_s / self._half_life_s
            )

    def forget(self) -> bool:
        """Forget some of what had too few hits; return whether there may be more of it."""
        return self._blocks.forget(self._least_level)

    def keys(self, prefix: HotPrefix) -> list[BlockKey]:
        """Return the block keys of a prefix that is remembered; an empty list if it was forgotten."""
        tip = self._blocks.get(prefix.tip)
        return [] if tip is None else [block.key for block in tip.path()]

    def hottest(self, max_tokens: int, max_prefixes: int) -> list[HotPrefix]:
        """Return prefixes, of each tenant the hottest first, and the tenants' in turns.

        Where many prompts go on from one, that one is a prefix of its own, and comes before them.

        Args:
            max_tokens: of all prefixes together, counted for each as often as it has them.
            max_prefixes: how many.
        """
        least, now = self._least_level, self._now
        shares = self._shares(
            (block for block in self._blocks.all() if block.level >= least),
            lambda blocks: self._tips(blocks, min(max_tokens // self._width, len(blocks))),
        )
        found = itertools.islice(in_turns(shares, max_tokens), max_prefixes)
        return [self._prefix(tip, now) for tip in found]

    def latest(self, within_s: float = RECENT_S) -> Iterator[HotPrefix]:
        """Yield the prompts of the last calls, of each tenant the latest first, and the tenants' in turns.

        A prompt that a later one goes on from is not one of its own. Before that of an adapter comes what the base
        model has of it.

        Args:
            within_s: none is older.
        """
        now, since = self._now, self._now - within_s / self._half_life_s
        ends = [block for block in self._blocks.all() if not block.children and block.hit_at >= since]
        shares = self._shares(ends, lambda blocks: self._last(blocks, now))
        return (self._prefix(tip, now) for tip in in_turns(shares, math.inf))

    @staticmethod
    def _shares(
        blocks: Iterable[HotBlock], tips: Callable[[list[HotBlock]], list[_Tip]]
    ) -> dict[Hashable, Share[_Tip]]:
        of_tenants: dict[str | None, list[HotBlock]] = {}
        for block in blocks:
            of_tenants.setdefault(block.source.cache_salt, []).append(block)
        return {salt: Share(found[0].tenant.weight, tips(found)) for salt, found in of_tenants.items()}

    @property
    def _now(self) -> float:
        """Half-lives."""
        return self._clock() / self._half_life_s

    @property
    def _least_level(self) -> float:
        return self._now + math.log2(LEAST_HEAT)

    def _tips(self, blocks: Iterable[HotBlock], count: int) -> list[_Tip]:
        """Return where prefixes end among so many of the hottest blocks, hottest first."""
        now, levels = self._now, {block: block.level for block in blocks}
        hottest = heapq.nsmallest(count, levels, key=lambda block: (-levels[block], block.depth))
        ends = dict.fromkeys(hottest, -math.inf)
        for block in hottest:
            if block.parent is not None and block.parent in ends:
                ends[block.parent] = max(ends[block.parent], levels[block])
        step = math.log2(BRANCHES) - ROUNDING
        tips = [block for block, next_level in ends.items() if levels[block] >= next_level + step]
        return [self._tip(block, levels[block] - now) for block in tips]

    def _last(self, ends: Iterable[HotBlock], now: float) -> list[_Tip]:
        """Return those blocks, and before each what the base model has of its path, the latest first."""
        tips: dict[HotBlock, None] = {}
        for block in sorted(ends, key=lambda block: -block.hit_at):
            tips |= {_last_of_base(block): None, block: None}
        return [self._tip(block, block.level - now) for block in tips]

    def _tip(self, block: HotBlock, level: float) -> _Tip:
        return _Tip(block, (block.depth + 1) * self._width, 2.0**level)

    def _prefix(self, tip: _Tip, now: float) -> HotPrefix:
        block, source = tip.block, tip.block.source
        is_base = source.adapter is None or block.depth < source.base_blocks
        return HotPrefix(
            array("I", b"".join(before.tokens for before in block.path())).tolist(),
            block.key,
            tip.heat,
            source.cache_salt,
            min(source.public_blocks, block.depth + 1),
            None if is_base else source.adapter,
            block.tenant.weight,
            max(now - block.hit_at, 0.0) * self._half_life_s,
        )


def _last_of_base(block: HotBlock) -> HotBlock:
    """Return the last block before it that the base model has, too; itself if it is one, or if there is none."""
    source, base = block.source, block
    if source.adapter is None or not source.base_blocks:
        return block
    while base.depth >= source.base_blocks and base.parent is not None:
        base = base.parent
    return base


def merged(lists: Iterable[Iterable[HotPrefix]]) -> list[HotPrefix]:
    """Return what several replicas found hot, each prefix with the hits of all: tenants in turns, hottest first."""
    found: dict[BlockKey, HotPrefix] = {}
    for prefix in itertools.chain.from_iterable(lists):
        before = found.get(prefix.tip)
        found[prefix.tip] = prefix if before is None else replace(before, heat=before.heat + prefix.heat)
    of_tenants: dict[str | None, list[HotPrefix]] = {}
    for prefix in sorted(found.values(), key=lambda prefix: (-prefix.heat, prefix.tokens)):
        of_tenants.setdefault(prefix.cache_salt, []).append(prefix)
    shares: dict[Hashable, Share[HotPrefix]] = {
        salt: Share(prefixes[0].weight, prefixes) for salt, prefixes in of_tenants.items()
    }
    return list(in_turns(shares, math.inf))
