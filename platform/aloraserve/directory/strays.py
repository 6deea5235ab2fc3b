"""Holders that lookups meet and no record names: entries that reclaiming may not know of.

A dead holder's entries are found by its index. A server that evicts keys may take the index and leave the entries, in
nodes that others keep alive. Lookups come across them and report where;
:mod:`aloraserve.directory.redis_reclaim` sweeps there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, KeysView, Mapping, Sequence

from aloraserve.blocks import BlockKey
from aloraserve.directory.base import RUN_BLOCKS
from aloraserve.directory.long_lookup import Ends
from aloraserve.directory.redis_encoding import HOLDER_BYTES
from aloraserve.directory.redis_keys import ShardKeys

MAX_STRAYS = 256
"""Holders and places that are remembered, each."""
MAX_RUNS = 4
"""Places that a lookup notes for a holder: the last ones, which others share with it least."""


class Strays:
    """Collects them in one gateway, until they are reported.

    Args:
        known: gives the holders that live replicas' records name.
        quiet_s: how long a holder has to be unknown: it may be a next incarnation that is being filled.
        every_s: between two reports.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        known: Callable[[], KeysView[bytes]],
        *,
        quiet_s: float,
        every_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._known = known
        self._quiet_s = quiet_s
        self._every_s = every_s
        self._clock = clock
        self._since: dict[bytes, float] = {}
        self._places: dict[tuple[ShardKeys, bytes], None] = {}
        self._reported_at = clock()

    def note(
        self,
        shard: ShardKeys,
        anchors: Sequence[BlockKey],
        found: Mapping[bytes, Ends],
        elsewhere: Iterable[tuple[bytes, int]],
    ) -> None:
        """Note where a lookup met holders that are not known.

        Args:
            shard: of the prompt's chain.
            anchors: of the prompt's runs.
            found: holders that have the prompt's first block, with how many blocks.
            elsewhere: others, each with the number of a run in which it is.
        """
        known = self._known()
        for holder in found.keys() - known:
            runs = found[holder].held // RUN_BLOCKS + 1
            for place in {anchors[0], *anchors[max(0, runs - MAX_RUNS) : runs]}:
                self._add(shard, holder, place)
        for holder, run in elsewhere:
            if holder not in known:
                self._add(shard, holder, anchors[run])

    def due(self) -> dict[ShardKeys, list[bytes]]:
        """Return what is to be reported now: holders and anchors, joined, by shard."""
        now = self._clock()
        if now - self._reported_at < self._every_s or not self._places:
            return {}
        self._reported_at = now
        known = self._known()
        reports: dict[ShardKeys, list[bytes]] = {}
        for shard, name in self._places:
            holder = name[:HOLDER_BYTES]
            if holder not in known and now - self._since.get(holder, now) >= self._quiet_s:
                reports.setdefault(shard, []).append(name)
        self._places.clear()
        return reports

    def _add(self, shard: ShardKeys, holder: bytes, place: BlockKey) -> None:
        self._since.setdefault(holder, self._clock())
        if len(self._since) > MAX_STRAYS:
            del self._since[next(iter(self._since))]
        if len(self._places) < MAX_STRAYS:
            self._places[shard, holder + place] = None
