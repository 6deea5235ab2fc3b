"""A modelled replica's side of the directory: the platform's own ingest, and heartbeats as its replicas send them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from functools import partial

from aloraserve.blocks import KeySpace
from aloraserve.directory.base import LEASE_TTL_S, ReplicaState
from aloraserve.directory.ingest import Ingest
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.simulation.base import KvBatch, KvEvent, ObservedReplica
from aloraserve.simulation.held_blocks import HeldBlocks
from aloraserve.simulation.simulated_directory import SimulatedDirectory
from aloraserve.simulation.simulated_loop import SimulatedLoop

HEARTBEAT_S = 0.15
MIN_HEARTBEAT_S = 0.015
"""As live, between heartbeats and after a prefill."""
QUIET_S = 60.0
"""Between the heartbeats of a replica of which nothing changes: each would say the same as the last."""
KEEP_EVERY_S = 1.0
KEPT_PER_S = 4
"""How often all replicas together free what others left: live, the backend bounds that itself."""


class ReplicaPublisher:
    """Publishes what a replica holds and its load, from its start to its death.

    Args:
        replica: who publishes.
        name: its id in the fleet.
        directory: where to.
        keyspace: of the fleet.
        loop: simulated time.
        chance: of the ingest's lots.
        replicas: in the fleet.
    """

    def __init__(
        self,
        replica: ObservedReplica,
        name: str,
        directory: SimulatedDirectory,
        keyspace: KeySpace,
        loop: SimulatedLoop,
        chance: random.Random,
        replicas: int,
    ) -> None:
        self.name = name
        self._replica = replica
        self._directory = directory
        self._loop = loop
        self._ingest: Ingest[KvEvent] = Ingest(
            directory,
            name,
            "0",
            HeldBlocks(keyspace),
            keep_every_s=max(KEEP_EVERY_S, replicas / KEPT_PER_S),
            clock=loop.time,
            chance=chance,
        )
        self._next_sequence = 0
        self._settled: list[str] = []
        self._begun_s = self._due_s = math.inf
        self._due = asyncio.Event()
        self._tasks = [loop.spawn(self._ingest.run()), loop.spawn(self._keep_reporting())]
        self._keep_quiet()

    def settle(self, claim_id: str) -> None:
        """Have a claim settled by the next report: its call is here."""
        self._settled.append(claim_id)
        self.report()

    def arrived(self, batch: KvBatch) -> None:
        """Take in KV events, after those that were lost before them and are there to be replayed."""
        for missed in self._replica.replay(self._next_sequence, batch.sequence):
            self._ingest.offer(missed)
        self._ingest.offer(batch)
        self._next_sequence = batch.sequence + 1

    def report(self, after_s: float = HEARTBEAT_S) -> None:
        """Have a heartbeat begin so long after the last one began, or now if that is past."""
        due_s = self._begun_s + after_s
        if due_s < self._due_s:
            self._due_s = due_s
            self._loop.at(due_s, partial(self._fall_due, due_s))

    def end(self) -> None:
        """Publish nothing more; the lease lapses when it would have."""
        for task in self._tasks:
            task.cancel()
        self._loop.at(self._begun_s + LEASE_TTL_S, lambda: self._loop.spawn(self._lapse()))

    def _fall_due(self, due_s: float) -> None:
        if due_s == self._due_s:
            self._due.set()

    async def _keep_reporting(self) -> None:
        while True:
            self._due.clear()
            self._begun_s, self._due_s = self._loop.now_s, math.inf
            settled, was_behind = tuple(self._settled), self._ingest.is_behind
            if await self._ingest.heartbeat(self._state(), ttl_s=2 * QUIET_S, settled=settled):
                del self._settled[: len(settled)]
                if was_behind or self._ingest.is_behind:
                    self.report()
            else:
                self.report()
            await self._due.wait()

    def _state(self) -> ReplicaState:
        replica = self._replica
        return ReplicaState(
            self.name,
            incarnation="",
            label=self.name,
            load=replica.load(),
            resident=replica.resident(),
            active_adapters=replica.active_adapters(),
        )

    def _keep_quiet(self) -> None:
        """Report now and then, also when nothing changes, as long as the replica lives."""
        if not self._tasks[0].done():
            self.report()
            self._loop.at(self._loop.now_s + QUIET_S, self._keep_quiet)

    async def _lapse(self) -> None:
        with contextlib.suppress(DirectoryUnavailableError):
            await self._directory.retire(self.name)
