"""Event batches in order, whatever order they came in: doubled ones passed over, gaps closed by replay."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import structlog

from aloraserve.blocks import EventBatch

MAX_REPLAYS = 4
"""For one gap: a publisher may drop replayed batches too, and each replay closes a part of the gap."""

Replay = Callable[[int], Awaitable[Sequence[EventBatch]]]
log = structlog.get_logger(__name__)


class OrderedBatches:
    """Yields batches numbered from 0 without doubles, and without gaps as far as replay closes them.

    Args:
        received: batches as they come, with the publisher's own numbers.
        replay: returns what the publisher still has from a number on; empty if nothing or nobody answers.
    """

    def __init__(self, received: AsyncIterator[EventBatch], replay: Replay) -> None:
        self._received = received
        self._replay = replay
        self._first: int | None = None
        self._next = 0

    async def batches(self) -> AsyncIterator[EventBatch]:
        """Yield them; a gap that stays shows in the numbers."""
        async for batch in self._received:
            if self._first is None:
                self._first = self._next = batch.sequence
            if batch.sequence > self._next:
                async for missed in self._missed(batch.sequence):
                    yield self._numbered(missed)
            if batch.sequence >= self._next:
                yield self._numbered(batch)

    async def _missed(self, before: int) -> AsyncIterator[EventBatch]:
        """Yield replayed batches up to number ``before`` in order, as far as they go on without a gap."""
        gap = self._next
        for _ in range(MAX_REPLAYS):
            reached = self._next
            for batch in await self._replay(self._next):
                if batch.sequence == self._next and batch.sequence < before:
                    yield batch
            if self._next >= before:
                log.info("events_replayed", first=gap, count=before - gap)
                return
            if self._next == reached:
                break
        log.warning("events_not_replayed", first=self._next, count=before - self._next)

    def _numbered(self, batch: EventBatch) -> EventBatch:
        self._next = batch.sequence + 1
        return EventBatch(batch.sequence - (self._first or 0), batch.events)
