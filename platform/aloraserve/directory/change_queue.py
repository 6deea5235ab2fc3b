"""A replica's changes on their way to the directory: one for each block, the latest."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice, takewhile
from typing import NamedTuple

from aloraserve.blocks import BlockKey
from aloraserve.directory.base import Holding
from aloraserve.directory.mirror import Delta


class Change(NamedTuple):
    """A block, and whether it is held now."""

    holding: Holding
    is_held: bool


class ChangeQueue:
    """Changes in the order in which they are pushed."""

    def __init__(self) -> None:
        self._changes: dict[BlockKey, Change] = {}

    def __len__(self) -> int:
        return len(self._changes)

    def add(self, delta: Delta) -> None:
        """Note changes; a block that waits already keeps its place.

        A chain goes from its end on, so that what was pushed stays prefix-closed.
        """
        self._changes.update((holding.key, Change(holding, False)) for holding in reversed(delta.removed))
        self._changes.update((holding.key, Change(holding, True)) for holding in delta.stored)

    def renew(self, held: Iterable[Holding]) -> None:
        """Have everything pushed again that is held, after the removals that wait: those are what is wrong now.

        Args:
            held: of each part that is renewed, all that is held.
        """
        waiting = self._changes
        self._changes = {key: change for key, change in waiting.items() if not change.is_held}
        self._changes.update((holding.key, Change(holding, True)) for holding in held)
        self._changes = self._changes | waiting

    def take(self, count: int, *, alike: bool = False) -> list[Change]:
        """Remove the first changes and return them; ``alike``: only removals, or none."""
        first = list(islice(self._changes.items(), count))
        if alike:
            first = list(takewhile(lambda item: item[1].is_held == first[0][1].is_held, first))
        return [self._changes.pop(key) for key, _ in first]

    def put_back(self, changes: Iterable[Change]) -> None:
        """Put changes in front that did not arrive, unless their blocks have changed since."""
        self._changes = {change.holding.key: change for change in changes} | self._changes

    def clear(self) -> None:
        """Forget all."""
        self._changes.clear()
