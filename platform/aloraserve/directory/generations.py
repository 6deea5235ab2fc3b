"""A replica's generations: the incarnation that its heartbeats name, and the one that its pushes fill."""

from __future__ import annotations

import math

from aloraserve.directory.base import MAX_FORMER


class Generations:
    """Counts the generations of one start.

    Args:
        start: what the incarnations of this start begin with.
    """

    def __init__(self, start: str) -> None:
        self._start = start
        self._named = self._filled = self._oldest = 0
        self._name_by = math.inf

    @property
    def named(self) -> str:
        """The incarnation whose holdings count."""
        return self._incarnation(self._named)

    @property
    def filled(self) -> str:
        """The incarnation under which changes are pushed."""
        return self._incarnation(self._filled)

    @property
    def nothing(self) -> str:
        """An incarnation that never has holdings."""
        return f"{self._start}.-"

    @property
    def is_replacing(self) -> bool:
        """Whether an earlier generation counts until this one is whole."""
        return self._named != self._filled

    def former(self, *, removing: bool = False) -> tuple[str, ...]:
        """Return earlier incarnations that may have holdings, as far as a push is to strike them off.

        Args:
            removing: the push removes blocks: then the one that still counts loses them, too.
        """
        numbers = [number for number in range(self._oldest, self._filled) if removing or number != self._named]
        return tuple(map(self._incarnation, numbers[-MAX_FORMER:]))

    def abandon(self) -> None:
        """Have nothing count that was pushed so far."""
        self._filled += 1
        self._named = self._filled
        self._name_by = math.inf

    def replace(self, name_by: float) -> None:
        """Fill the next generation, while the last one goes on to count until it is whole, or until ``name_by``."""
        self._filled += 1
        self._name_by = name_by

    def on_time(self, now: float) -> None:
        """Have the filled generation count as it is, if its time has come."""
        if now >= self._name_by:
            self._named, self._name_by = self._filled, math.inf

    def whole(self) -> None:
        """Have the filled generation count: everything was pushed under it, and its pushes struck off earlier ones."""
        self._named = self._oldest = self._filled
        self._name_by = math.inf

    def _incarnation(self, number: int) -> str:
        return f"{self._start}.{number}"
