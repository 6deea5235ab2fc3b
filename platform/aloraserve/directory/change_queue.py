"""A replica's changes on their way to the directory: one for each block, the latest."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from aloraserve.blocks import BlockKey
from aloraserve.directory.base import Holding
from aloraserve.directory.mirror import Delta


class Changes(NamedTuple):
    """What one push says."""

    stored: list[Holding]
    removed: list[Holding]


class ChangeQueue:
    """Removals first, as they are what is wrong in the directory now; then what is stored, in order."""

    def __init__(self) -> None:
        self._stored: dict[BlockKey, Holding] = {}
        self._removed: dict[BlockKey, Holding] = {}

    def __len__(self) -> int:
        return len(self._stored) + len(self._removed)

    @property
    def has_removals(self) -> bool:
        """Whether a block that is gone still waits to be removed."""
        return bool(self._removed)

    def add(self, delta: Delta) -> None:
        """Note changes. A chain goes from its end on, so that what was pushed stays prefix-closed."""
        for holding in reversed(delta.removed):
            self._stored.pop(holding.key, None)
            self._removed[holding.key] = holding
        for holding in delta.stored:
            self._removed.pop(holding.key, None)
            self._stored[holding.key] = holding

    def renew(self, held: Iterable[Holding]) -> None:
        """Have everything pushed again that is held.

        Args:
            held: of each part that is renewed, all that is held.
        """
        self._stored = {holding.key: holding for holding in held} | self._stored

    def take(self, count: int, *, alike: bool = False) -> Changes:
        """Remove the first changes and return them; ``alike``: only removals, or none."""
        removed = _first(self._removed, count)
        stored = [] if alike and removed else _first(self._stored, count - len(removed))
        return Changes(stored, removed)

    def put_back(self, changes: Changes) -> None:
        """Put changes in front that did not arrive, unless their blocks have changed since."""
        later = self._stored.keys() | self._removed.keys()
        for waiting, holdings in ((self._stored, changes.stored), (self._removed, changes.removed)):
            first = {holding.key: holding for holding in holdings if holding.key not in later}
            rest = dict(waiting)
            waiting.clear()
            waiting.update(first | rest)

    def clear(self) -> None:
        """Forget all."""
        self._stored.clear()
        self._removed.clear()


def _first(waiting: dict[BlockKey, Holding], count: int) -> list[Holding]:
    return [waiting.pop(key) for key in list(islice(waiting, count))]
