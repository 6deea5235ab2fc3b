"""The platform's directory in simulated time: out of reach or slow when a run's faults say so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from aloraserve.blocks import BlockKey
from aloraserve.directory.base import Candidate, Epoch, ReplicaState
from aloraserve.directory.memory import MemoryDirectory
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.simulation.faults import Fault

MAX_NODES = 4_000_000


class SimulatedDirectory(MemoryDirectory):
    """See :class:`~aloraserve.directory.base.Directory`. After an outage it comes back empty.

    Args:
        clock: simulated seconds.
        faults: of the run; outages and delays of Redis count here.
    """

    def __init__(self, clock: Callable[[], float], faults: Sequence[Fault]) -> None:
        super().__init__(clock=clock, max_nodes=MAX_NODES)
        outages = [fault for fault in faults if fault.kind == "redis-outage"]
        self._outages = sorted(outages, key=lambda fault: fault.start_s)
        self._delays = [fault for fault in faults if fault.kind == "redis-delay"]
        self._is_faulty = bool(self._outages or self._delays)

    async def publish(self, state: ReplicaState, **options: Any) -> None:
        await self._answer()
        await super().publish(state, **options)

    async def retire(self, replica: str) -> None:
        await self._answer()
        await super().retire(replica)

    async def mark_leaving(self, replica: str, **options: Any) -> None:
        await self._answer()
        await super().mark_leaving(replica, **options)

    async def apply(self, replica: str, incarnation: str, **options: Any) -> Set[str]:
        await self._answer()
        return await super().apply(replica, incarnation, **options)

    async def lookup(self, keys: Sequence[BlockKey]) -> list[Candidate]:
        await self._answer()
        return await super().lookup(keys)

    async def claim(
        self, claim_id: str, replica: str, incarnation: str, keys: Sequence[BlockKey], **options: Any
    ) -> bool:
        await self._answer()
        return await super().claim(claim_id, replica, incarnation, keys, **options)

    async def withdraw(self, claim_id: str, replica: str, incarnation: str, keys: Sequence[BlockKey]) -> None:
        await self._answer()
        await super().withdraw(claim_id, replica, incarnation, keys)

    async def epoch(self) -> Mapping[str, Epoch]:
        await self._answer()
        return await super().epoch()

    async def _answer(self) -> None:
        """Take the time that an answer takes, or raise."""
        if not self._is_faulty:
            return
        delay_s = sum(fault.value for fault in self._delays if fault.is_on(self._clock()))
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        self._end_outages()
        if any(fault.is_on(self._clock()) for fault in self._outages):
            raise DirectoryUnavailableError("the directory is out of reach, as the run's faults say")

    def _end_outages(self) -> None:
        """Lose everything once for each outage that is over."""
        while self._outages and self._outages[0].end_s <= self._clock():
            del self._outages[0]
            self.clear()
