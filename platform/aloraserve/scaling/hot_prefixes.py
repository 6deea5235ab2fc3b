"""The prefixes that a replica's calls had most of lately: what another replica should have before its first call.

They are kept as a tree of blocks. Each call adds one hit to every block of its prompt, and hits are halved every
``HALF_LIFE_S``: the heat. A block has never more heat than the one before it, so the hottest blocks are whole prefixes.
A block's worth is its hits times the seconds that its prefill takes. Within a budget of seconds those with the most
worth per second come first, which are those with the most hits. Tenants take turns, by their weights.

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
    """

    token_ids: Sequence[int]
    tip: BlockKey
    heat: float
    cache_salt: str | None = None
    public_blocks: int = 0
    adapter: AdapterRef | None = None
    weight: float = 1.0

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
        self, token_ids: Sequence[int], keys: Sequence[BlockKey], source: PrefixSource, heat: float | None = None
    ) -> Iterator[None]:
        """Add a hit to a prompt's blocks, some of them with each step of the iterator.

        Args:
            token_ids: of the prompt.
            keys: of its whole blocks; those beyond what can be remembered are passed over.
            source: of the keys.
            heat: what they have at least, as another replica found them; None: a hit is added.
        """
        if heat is None or heat >= LEAST_HEAT:
            yield from self._blocks.add(token_ids, keys[: self._most_of_a_prompt], source, self._now, heat)

    def forget(self) -> bool:
        """Forget some of what had too few hits; return whether there may be more of it."""
        return self._blocks.forget(self._least_level)

    def keys(self, prefix: HotPrefix) -> list[BlockKey]:
        """Return the block keys of a prefix that is remembered; an empty list if it was forgotten."""
        tip = self._blocks.get(prefix.tip)
        return [] if tip is None else [block.key for block in tip.path()]

    def hottest(self, max_tokens: int, max_prefixes: int) -> list[HotPrefix]:
        """Return the first prefixes of :meth:`in_order`.

        Args:
            max_tokens: of all prefixes together, counted for each as often as it has them.
            max_prefixes: how many.
        """
        return list(itertools.islice(self.in_order(max_tokens), max_prefixes))

    def in_order(self, max_tokens: float = math.inf) -> Iterator[HotPrefix]:
        """Yield prefixes, of each tenant the hottest first, and the tenants' in turns.

        Where many prompts go on from one, that one is a prefix of its own, and comes before them.

        Args:
            max_tokens: see :meth:`hottest`.
        """
        least, of_tenants = self._least_level, dict[str | None, list[HotBlock]]()
        for block in self._blocks.all():
            if block.level >= least:
                of_tenants.setdefault(block.source.cache_salt, []).append(block)
        shares: dict[Hashable, Share[_Tip]] = {
            salt: Share(blocks[0].tenant.weight, self._tips(blocks, int(min(max_tokens / self._width, len(blocks)))))
            for salt, blocks in of_tenants.items()
        }
        return map(self._prefix, in_turns(shares, max_tokens))

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
        return [_Tip(block, (block.depth + 1) * self._width, 2.0 ** (levels[block] - now)) for block in tips]

    @staticmethod
    def _prefix(tip: _Tip) -> HotPrefix:
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
        )


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
