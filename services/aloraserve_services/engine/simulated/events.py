"""KV events of an engine in this process, with a replay as a publisher has one, and faults on demand."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence

from aloraserve.blocks import EngineEvent, EventBatch
from aloraserve_services.engine.simulated.faults import EventFault
from aloraserve_services.engine.vllm.event_replay import OrderedBatches

REPLAY_BATCHES = 10_000
MAX_WAITING = 100_000


class SimulatedEvents:
    """See :class:`~aloraserve_services.engine.base.EventSource`. For one event loop.

    Args:
        replay_batches: how many batches the replay keeps.
    """

    def __init__(self, replay_batches: int = REPLAY_BATCHES) -> None:
        self._kept: deque[EventBatch] = deque(maxlen=replay_batches)
        self._waiting: deque[EventBatch] = deque(maxlen=MAX_WAITING)
        self._arrived = asyncio.Event()
        self._held: list[EventBatch] = []
        self._sequence = 0
        self._fault: EventFault | None = None
        self._ordered = OrderedBatches(self._received(), self._replayed)

    def publish(self, events: Sequence[EngineEvent]) -> None:
        """Send what one step changed; nothing happens without events."""
        if not events:
            return
        batch = EventBatch(self._sequence, tuple(events))
        self._sequence += 1
        if self._fault != "lose-events":
            self._kept.append(batch)
        self._send(batch)

    def inject(self, fault: EventFault | None) -> None:
        """Treat all further batches so, None as usual.

        Batches that were held back leave now, the newest first: so the first one that follows shows a gap.
        """
        self._fault = fault
        held, self._held = self._held, []
        for batch in reversed(held):
            self._deliver(batch)

    def batches(self) -> AsyncIterator[EventBatch]:
        """Yield batches as a replica gets them."""
        return self._ordered.batches()

    def close(self) -> None:
        """Do nothing: there is nothing open."""

    def _send(self, batch: EventBatch) -> None:
        match self._fault:
            case "hang-events":
                self._held.append(batch)
                del self._held[:-REPLAY_BATCHES]
            case "drop-events" | "lose-events":
                pass
            case "duplicate-events":
                self._deliver(batch)
                self._deliver(batch)
            case "reorder-events":
                self._held.append(batch)
                if len(self._held) == 2:
                    self._deliver(self._held.pop())
                    self._deliver(self._held.pop())
            case None:
                self._deliver(batch)

    def _deliver(self, batch: EventBatch) -> None:
        self._waiting.append(batch)
        self._arrived.set()

    async def _received(self) -> AsyncIterator[EventBatch]:
        while True:
            while self._waiting:
                yield self._waiting.popleft()
            self._arrived.clear()
            await self._arrived.wait()

    async def _replayed(self, start: int) -> list[EventBatch]:
        return [batch for batch in self._kept if batch.sequence >= start]
