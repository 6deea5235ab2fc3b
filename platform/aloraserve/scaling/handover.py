"""Which of a leaving replica's prefixes are computed on another one before it goes, on which, and how.

A prefix that nobody else holds is computed again by the first call that needs it, which waits for it. To compute it
before costs the same time of an engine. So that nobody waits long for that, it is computed in parts, each a call of the
lowest priority, with as long a rest after each: a call that comes meanwhile waits for one part at most, and answers are
at most half as fast as without, for a few seconds. It is worth that where the call is likely to come::

    gain = misses * prefill seconds of the prefix
    cost = calls that wait there * prefill seconds of a part

``misses`` is the probability that the prefix is asked for within a half-life: calls go where a prefix is, so that of
all calls to come one alone would miss.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from aloraserve.blocks import BlockKey
from aloraserve.directory.base import Candidate
from aloraserve.scaling.hot_prefixes import MAX_SENT, HotPrefix

HAND_OVER_S = 20.0
"""What a replica that leaves spends at most on its prefixes, beside the answers that it ends."""
ANSWER_S = 1.0
"""Of that, for the way to the others and back."""
PART_TOKENS = 2048
"""Of a prefix, that are computed at once."""
REST = 1.0
"""Times what a part takes: so long its replica computes its own calls alone before the next one."""
HELD = 0.9
"""Of a prefix, what another replica has to hold so that nothing is done for it."""
MAX_HANDED_TOKENS = 196_608
"""That each of the others gets."""
MAX_LOOKED_UP = 1024
"""Prefixes of a leaving replica: the hottest are those that all have, and what it alone has comes after them."""


def misses(heat: float) -> float:
    """Return how likely a prefix is asked for within the next half-life.

    Args:
        heat: of the prefix: at a steady rate, its hits per half-life divided by ln 2.
    """
    return 1.0 - math.exp(-heat * math.log(2.0))


def parts(blocks: int, block_tokens: int) -> Iterator[int]:
    """Yield how many of a prefix's blocks are there after each part of it.

    Args:
        blocks: of the prefix.
        block_tokens: tokens per block.
    """
    step = max(PART_TOKENS // block_tokens, 1)
    yield from range(step, blocks, step)
    yield blocks


def new_home(
    heat: float,
    blocks: int,
    candidates: Iterable[Candidate],
    leaving: str,
    given: Mapping[str, int] | None = None,
    *,
    block_tokens: int,
) -> str | None:
    """Return on which replica a prefix is to be computed; None if that is not worth it, or another one has it.

    Args:
        heat: of the prefix.
        blocks: that it has.
        candidates: as a lookup of its keys finds them.
        leaving: id of the replica that goes.
        given: by replica, how many prefixes it is to compute already: each counts as one more running call there.
        block_tokens: tokens per block.
    """
    given = given or {}
    others = [
        candidate for candidate in candidates if candidate.state.replica != leaving and not candidate.state.is_leaving
    ]
    if not others or any(candidate.claimed_blocks >= HELD * blocks for candidate in others):
        return None
    best = min(
        others,
        key=lambda other: (
            other.state.load.waiting,
            other.state.load.running + given.get(other.state.replica, 0),
            -other.held_blocks,
        ),
    )
    part = next(parts(blocks, block_tokens))
    return best.state.replica if misses(heat) * blocks > best.state.load.waiting * part else None


class HandOverPlan:
    """Which of a leaving replica's prefixes each of the others computes, as they are offered, hottest first.

    Args:
        leaving: id of the replica that goes.
        block_tokens: tokens per block.

    Attributes:
        homes: prefixes by the replica that computes them, in order.
    """

    def __init__(self, leaving: str, block_tokens: int) -> None:
        self.homes: dict[str, list[HotPrefix]] = {}
        self._leaving = leaving
        self._block = block_tokens
        self._planned: set[BlockKey] = set()
        self._offered = 0

    @property
    def is_full(self) -> bool:
        """Whether nothing further is to be offered."""
        is_sent = any(len(prefixes) >= MAX_SENT for prefixes in self.homes.values())
        tokens = len(self._planned) * self._block
        return is_sent or self._offered >= MAX_LOOKED_UP or tokens >= MAX_HANDED_TOKENS * max(len(self.homes), 1)

    def offer(self, prefix: HotPrefix, keys: Sequence[BlockKey], candidates: Iterable[Candidate]) -> None:
        """Take a prefix up where that is worth it.

        Args:
            prefix: of the replica.
            keys: of its blocks; none: it was forgotten.
            candidates: as a lookup of its keys finds them.
        """
        self._offered += 1
        given = {home: len(prefixes) for home, prefixes in self.homes.items()}
        if not keys:
            return
        home = new_home(prefix.heat, len(keys), candidates, self._leaving, given, block_tokens=self._block)
        if home is not None:
            self.homes.setdefault(home, []).append(prefix)
            self._planned.update(keys)
