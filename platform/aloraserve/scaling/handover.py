"""Which of a leaving replica's prefixes are computed on another one before it goes, on which, and how.

A prefix that nobody else holds is computed again by the first call that needs it, which waits for it. To compute it
before costs the same time of an engine. So that nobody waits long for that, it is computed in parts, each a call of the
lowest priority, with as long a rest after each: a call that comes meanwhile waits for one part at most, and answers are
at most half as fast as without, for a few seconds. The latest prompts come first, and those of which no call came for
``RECENT_S`` do not come at all. A prefix is worth it where its next call is likely to come::

    gain = misses * prefill seconds of what is left of the prefix there
    cost = calls that wait there * prefill seconds of a part

``misses`` is the probability that the prefix is asked for within a half-life: calls go where a prefix is, so that of
all calls to come one alone would miss.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace

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
"""Of a prefix, what another replica has to hold so that nothing is done for it, and the leaving one so that it is."""
MAX_HANDED_TOKENS = 196_608
"""That each of the others computes."""
MAX_LOOKED_UP = 1024
"""Prefixes of a leaving replica."""


def misses(heat: float) -> float:
    """Return how likely a prefix is asked for within the next half-life.

    Args:
        heat: of the prefix: at a steady rate, its hits per half-life divided by ln 2.
    """
    return 1.0 - math.exp(-heat * math.log(2.0))


def parts(blocks: int, block_tokens: int, known_blocks: int = 0) -> Iterator[int]:
    """Yield how many of a prefix's blocks are there after each part of it.

    Args:
        blocks: of the prefix.
        block_tokens: tokens per block.
        known_blocks: of it, that are there before the first part.
    """
    step = max(PART_TOKENS // block_tokens, 1)
    yield from range(max(known_blocks, 0) + step, blocks, step)
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

    What the leaving one has evicted since is not worth it: elsewhere it would take the place of what was used later.

    Args:
        heat: of the prefix.
        blocks: that it has.
        candidates: as a lookup of its keys finds them.
        leaving: id of the replica that goes.
        given: by replica, how many blocks it is to compute already.
        block_tokens: tokens per block.
    """
    given = given or {}
    found = {candidate.state.replica: candidate for candidate in candidates}
    if (gone := found.pop(leaving, None)) is not None and gone.held_blocks < HELD * blocks:
        return None
    others = {replica: candidate for replica, candidate in found.items() if not candidate.state.is_leaving}
    left = {replica: blocks - candidate.claimed_blocks for replica, candidate in others.items()}
    if not others or any(candidate.claimed_blocks >= HELD * blocks for candidate in others.values()):
        return None
    loads = {replica: candidate.state.load for replica, candidate in others.items()}
    best = min(left, key=lambda other: (loads[other].waiting, given.get(other, 0) + left[other], loads[other].running))
    part = next(parts(left[best], block_tokens))
    return best if misses(heat) * left[best] > loads[best].waiting * part else None


class HandOverPlan:
    """Which of a leaving replica's prefixes each of the others computes, as they are offered, the latest first.

    Each goes where the least is to compute: of the prefix itself, and of what that replica was given already. Of
    replicas that are equal in that, the idlest gets it.

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
        self._planned: dict[str, set[BlockKey]] = {}
        self._offered = 0

    @property
    def is_full(self) -> bool:
        """Whether nothing further is to be offered."""
        if self._offered >= MAX_LOOKED_UP or any(len(prefixes) >= MAX_SENT for prefixes in self.homes.values()):
            return True
        blocks = sum(map(len, self._planned.values()))
        return blocks * self._block >= MAX_HANDED_TOKENS * max(len(self.homes), 1)

    def offer(self, prefix: HotPrefix, keys: Sequence[BlockKey], candidates: Iterable[Candidate]) -> None:
        """Take a prefix up where that is worth it.

        Args:
            prefix: of the replica.
            keys: of its blocks; none: it was forgotten.
            candidates: as a lookup of its keys finds them.
        """
        self._offered += 1
        if not keys:
            return
        found = {candidate.state.replica: self._with_planned(candidate, keys) for candidate in candidates}
        given = {home: len(planned) for home, planned in self._planned.items()}
        home = new_home(prefix.heat, len(keys), found.values(), self._leaving, given, block_tokens=self._block)
        if home is not None:
            known = found[home].claimed_blocks
            self.homes.setdefault(home, []).append(replace(prefix, known_blocks=known))
            self._planned.setdefault(home, set()).update(keys[known:])

    def _with_planned(self, candidate: Candidate, keys: Sequence[BlockKey]) -> Candidate:
        """Return a candidate with what it is to compute of a prefix."""
        planned: Set[BlockKey] = self._planned.get(candidate.state.replica, frozenset())
        more = sum(1 for _ in itertools.takewhile(planned.__contains__, keys[candidate.claimed_blocks :]))
        return replace(candidate, claimed_blocks=candidate.claimed_blocks + more)
