"""What an ingest needs of an engine: its events in order, and a mirror of the blocks that they speak of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from typing_extensions import TypeVar

from aloraserve.blocks import KeySpace
from aloraserve.directory.base import Holding
from aloraserve.directory.mirror import Delta

BatchT = TypeVar("BatchT", covariant=True)
MirroredT = TypeVar("MirroredT", contravariant=True)


class Batch(Protocol[BatchT]):
    """Events of one engine step, in order; ``sequence`` counts batches from 0 without a gap."""

    @property
    def sequence(self) -> int: ...

    @property
    def events(self) -> Sequence[BatchT]: ...


class EngineMirror(Protocol[MirroredT]):
    """Blocks that an engine holds, by its events; :class:`~aloraserve.directory.mirror.Mirror` is that of vLLM."""

    @property
    def keyspace(self) -> KeySpace: ...

    def __len__(self) -> int:
        """How many keys are held."""
        ...

    def apply(self, event: MirroredT) -> Delta:
        """Take in one event and return what changed."""
        ...

    def clear(self) -> object:
        """Forget everything."""
        ...

    def snapshot(self) -> Sequence[Holding]:
        """Return everything that is held, each block after those before it."""
        ...
