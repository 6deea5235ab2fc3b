"""Prefixes that a gateway's calls had, as one cache of some size would keep them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from aloraserve.blocks import BlockKey
from aloraserve.directory.base import RUN_BLOCKS

MAX_RUNS = 131_072
"""At most about 25 MB, and 4 million blocks."""


class _Run(NamedTuple):
    blocks: int
    at_s: float


class PrefixMemory:
    """The last key of each run of a prompt, and its very last one; the least recently used go first.

    Of one prompt, ends go before beginnings. A prompt is found again to its own end, and where two prompts part within
    a run, to the run's beginning.

    Args:
        capacity_blocks: room for; :data:`MAX_RUNS` bounds it in any case.
    """

    def __init__(self, capacity_blocks: int) -> None:
        self._capacity_blocks = capacity_blocks
        self._runs: OrderedDict[BlockKey, _Run] = OrderedDict()
        self._blocks = 0

    def __len__(self) -> int:
        """How many blocks it stands for."""
        return self._blocks

    def resize(self, capacity_blocks: int) -> None:
        """Have room for so many blocks from now on."""
        self._capacity_blocks = capacity_blocks
        self._evict()

    def match(self, keys: Sequence[BlockKey]) -> int:
        """Return how many leading blocks are remembered."""
        whole = 0
        while whole + RUN_BLOCKS <= len(keys) and keys[whole + RUN_BLOCKS - 1] in self._runs:
            whole += RUN_BLOCKS
        ends = range(min(whole + RUN_BLOCKS, len(keys)), whole, -1)
        return next((end for end in ends if keys[end - 1] in self._runs), whole)

    def touched_s(self, keys: Sequence[BlockKey], blocks: int) -> float | None:
        """Return when a call last had the first ``blocks`` of ``keys``, of those that :meth:`match` counted."""
        run = self._runs.get(keys[blocks - 1]) if blocks else None
        return None if run is None else run.at_s

    def touch(self, keys: Sequence[BlockKey], now_s: float) -> None:
        """Remember a prompt as the most recently used."""
        for end in reversed(range(RUN_BLOCKS, len(keys) + RUN_BLOCKS, RUN_BLOCKS)):
            last = min(end, len(keys))
            self._put(keys[last - 1], _Run(last - (end - RUN_BLOCKS), now_s))
        self._evict()

    def _put(self, key: BlockKey, run: _Run) -> None:
        known = self._runs.pop(key, None)
        self._blocks += run.blocks - (known.blocks if known else 0)
        self._runs[key] = run

    def _evict(self) -> None:
        while self._runs and (self._blocks > self._capacity_blocks or len(self._runs) > MAX_RUNS):
            self._blocks -= self._runs.popitem(last=False)[1].blocks
