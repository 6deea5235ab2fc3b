"""Blocks that a modelled engine holds: it names them by their keys, so that no tokens are needed to place them."""

from __future__ import annotations

from collections.abc import Sequence

from aloraserve.blocks import BlockKey, KeySpace
from aloraserve.directory.base import Holding
from aloraserve.directory.mirror import Delta
from aloraserve.simulation.base import KvEvent


class HeldBlocks:
    """See :class:`~aloraserve.directory.ingest.EngineMirror`.

    Args:
        keyspace: of the fleet.
    """

    def __init__(self, keyspace: KeySpace) -> None:
        self.keyspace = keyspace
        self._held: dict[BlockKey, Holding] = {}

    def __len__(self) -> int:
        return len(self._held)

    def apply(self, event: KvEvent) -> Delta:
        held = self._held
        removed = tuple(held.pop(key) for key in event.removed if key in held)
        held.update((holding.key, holding) for holding in event.stored)
        return Delta(tuple(event.stored), removed)

    def clear(self) -> None:
        self._held.clear()

    def snapshot(self) -> Sequence[Holding]:
        # An engine caches a chain from its start on and loses its end first.
        return list(self._held.values())
