"""What a fleet misses of replicas that left: blocks that only they had, and that were computed again."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from aloraserve.blocks import BlockKey

WATCHED_S = 300.0
"""After a replica left; what is asked for later would hardly have stayed."""


class Departures:
    """Counts the blocks that calls compute though a replica that left had them."""

    def __init__(self) -> None:
        self.missed_blocks = 0
        self.count = 0
        self._lost: dict[BlockKey, float] = {}

    def left(self, time_s: float, held: Collection[BlockKey], others: Sequence[Collection[BlockKey]]) -> None:
        """Note what goes with a replica.

        Args:
            time_s: when.
            held: keys that it had.
            others: keys of those that stay.
        """
        self.count += 1
        kept = set[BlockKey]().union(*others)
        self._lost = {key: until_s for key, until_s in self._lost.items() if until_s > time_s}
        self._lost.update((key, time_s + WATCHED_S) for key in held if key not in kept)

    def computed(self, time_s: float, keys: Sequence[BlockKey]) -> None:
        """Count those of a call's uncached blocks that a replica took along; each is missed once."""
        for key in keys:
            until_s = self._lost.pop(key, 0.0)
            self.missed_blocks += until_s > time_s

    def kept(self, keys: Sequence[BlockKey]) -> None:
        """Note that another replica computes these, without a call that waits for them."""
        for key in keys:
            self._lost.pop(key, None)
