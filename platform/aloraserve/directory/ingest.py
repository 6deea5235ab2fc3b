"""From an engine's events to the directory's holdings: in order, bounded, and whole again after an outage.

Changes are reported to the directory. Whenever some of them may not have reached it (a push failed, too many
queued up, the engine's events had a gap, the directory restarted) the replica starts a new *generation*: its
incarnation gets the next suffix and everything it holds is pushed again under it. What the directory still
has of earlier generations never counts; it is freed in the background, a bounded part at a time.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Generic, Protocol

from typing_extensions import TypeVar

from aloraserve.blocks import BlockKey, EngineEvent, KeySpace
from aloraserve.directory.base import FORGET_S, LEASE_TTL_S, NODE_TTL_S, Directory, Holding, ReplicaState
from aloraserve.directory.mirror import Delta
from aloraserve.errors import DirectoryUnavailableError

EventT = TypeVar("EventT", default=EngineEvent)
BatchT = TypeVar("BatchT", covariant=True)
MirroredT = TypeVar("MirroredT", contravariant=True)

STUCK_PUSH_S = 1.0
"""A push that takes longer may be lost in a connection that is gone; a heartbeat that gets through beside it must not
renew what the push would have removed."""


@dataclass(slots=True)
class IngestStats:
    """Counts since the start; ``overflows`` are queues given up for being too long."""

    events: int = 0
    gaps: int = 0
    overflows: int = 0
    pushes: int = 0
    push_failures: int = 0
    heartbeat_failures: int = 0
    republishes: int = 0
    reclaimed: int = 0


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


class Ingest(Generic[EventT]):
    """Keeps a replica's holdings and lease in the directory.

    Every method is called on one event loop, whose time its waits go by. One task runs :meth:`run`; another calls
    :meth:`heartbeat` several times a second.

    Args:
        directory: where to.
        replica: the replica's id.
        incarnation: its start number; see :attr:`incarnation` for what is published.
        mirror: what the engine holds; owned by this object from now on.
        on_gap: called when events were lost. The replica should reset its prefix cache, because blocks whose
            parent was lost cannot be placed; until then it holds more than the directory knows.
        max_pending: changes that may wait beyond the number of keys held before everything is pushed again.
        chunk: keys a push, at most 4096. Redis answers no lookup during one, so it should be well within
            their budget.
        max_backoff_s: the longest pause between tries while the directory is gone.
        republish_every_s: everything is pushed again this often, before the directory's nodes expire; drawn by default,
            so that replicas that started together do not all do it at once.
        check_every_s: how often a heartbeat also looks whether the directory lost its content.
        keep_every_s: how often one also renews the key space's handshake and frees what others left.
        clock: seconds that never go back.
        chance: draws how replicas spread their work over time; this process's own if None.
    """

    def __init__(
        self,
        directory: Directory,
        replica: str,
        incarnation: str,
        mirror: EngineMirror[EventT],
        *,
        on_gap: Callable[[], None] = lambda: None,
        max_pending: int = 65_536,
        chunk: int = 256,
        max_backoff_s: float = 1.0,
        republish_every_s: float | None = None,
        check_every_s: float = 0.5,
        keep_every_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        chance: random.Random | None = None,
    ) -> None:
        self.stats = IngestStats()
        self._directory = directory
        self._replica = replica
        self._start = incarnation
        self._mirror = mirror
        self._on_gap = on_gap
        self._max_pending = max_pending
        self._chunk = chunk
        self._max_backoff_s = max_backoff_s
        self._chance = chance or random.Random()  # noqa: S311 - no secret
        self._republish_every_s = republish_every_s or NODE_TTL_S / 2 * self._chance.uniform(5 / 6, 1.0)
        self._check_every_s = check_every_s
        self._keep_every_s = keep_every_s
        self._clock = clock
        self._generation = 0
        self._dirty = False
        self._pushing_since = math.inf
        self._pending: dict[BlockKey, tuple[Holding, bool]] = {}
        self._next_sequence = 0
        self._epoch: str | None = None
        self._published_at = self._republished_at = clock()
        self._checked_at = self._kept_at = -math.inf
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def incarnation(self) -> str:
        """The incarnation that the replica's published state must name now; :meth:`heartbeat` sees to it."""
        return f"{self._start}.{self._generation}"

    @property
    def pending(self) -> int:
        """How many changes wait to be pushed."""
        return len(self._pending)

    def offer(self, batch: Batch[EventT]) -> None:
        """Take in a batch: into the mirror at once, into the directory soon. Never blocks, never raises."""
        if batch.sequence != self._next_sequence:
            self._lose()
        self._next_sequence = batch.sequence + 1
        for event in batch.events:
            self.stats.events += 1
            self._queue(self._mirror.apply(event))

    def mark_dirty(self) -> None:
        """Have everything pushed again under the next generation, which heartbeats name from now on."""
        if not self._dirty:
            # At once: a heartbeat under the old one would renew what may be wrong.
            self._generation += 1
        self._dirty = True
        self._pending.clear()
        self._wake()

    async def run(self) -> None:
        """Push changes until cancelled; a failed push is tried again as a whole new generation."""
        failures = 0
        while True:
            await self._work.wait()
            try:
                await self._push_all()
                failures = 0
            except DirectoryUnavailableError:
                self.stats.push_failures += 1
                failures += 1
                await asyncio.sleep(self._backoff_s(failures))

    async def heartbeat(self, state: ReplicaState, *, ttl_s: float = LEASE_TTL_S, settled: Sequence[str] = ()) -> bool:
        """Publish the lease and the load; return whether the directory took them.

        ``state.incarnation`` and ``state.held_blocks`` are filled in here. Also notices a directory that lost
        its content, or forgot this replica because it was out of reach for long.

        Args:
            state: what to publish.
            ttl_s: how long the lease lives.
            settled: ids of claims whose tokens the state's load includes, or that are done with.

        Raises:
            KeySpaceMismatchError: the fleet has another key space now: this replica was out of reach, and another
                fleet took its namespace.
        """
        now = self._clock()
        if now - self._republished_at > self._republish_every_s or now - self._pushing_since > STUCK_PUSH_S:
            self.mark_dirty()
        try:
            published = replace(state, incarnation=self.incarnation, held_blocks=len(self._mirror))
            await self._directory.publish(published, ttl_s=ttl_s, settled=settled)
            await self._keep_up()
        except DirectoryUnavailableError:
            self.stats.heartbeat_failures += 1
            return False
        if self._clock() - self._published_at > FORGET_S / 2:
            self.mark_dirty()
        self._published_at = self._clock()
        return True

    async def drain(self, timeout_s: float) -> bool:
        """Wait, while :meth:`run` runs, until nothing is left to push; return whether that came to be."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def _keep_up(self) -> None:
        now = self._clock()
        if now - self._checked_at >= self._check_every_s:
            await self._check_epoch()
            self._checked_at = now
        if now - self._kept_at >= self._keep_every_s:
            await self._directory.join(self._mirror.keyspace)
            self.stats.reclaimed += await self._directory.reclaim()
            self._kept_at = now

    def _lose(self) -> None:
        self.stats.gaps += 1
        self._mirror.clear()
        self.mark_dirty()
        self._on_gap()

    def _queue(self, delta: Delta) -> None:
        if self._dirty or not (delta.stored or delta.removed):
            return
        self._pending.update((holding.key, (holding, False)) for holding in delta.removed)
        self._pending.update((holding.key, (holding, True)) for holding in delta.stored)
        self._wake()
        if len(self._pending) > self._max_pending + len(self._mirror):
            self.stats.overflows += 1
            self.mark_dirty()

    def _wake(self) -> None:
        self._idle.clear()
        self._work.set()

    async def _check_epoch(self) -> None:
        epoch = await self._directory.epoch()
        if self._epoch is not None and epoch != self._epoch:
            self.mark_dirty()
        self._epoch = epoch

    async def _push_all(self) -> None:
        # An epoch noted only after the first push would hide a restart in between.
        if self._epoch is None:
            await self._check_epoch()
        while self._dirty or self._pending:
            if self._dirty:
                self._start_over()
            await self._push_chunk()
        self._work.clear()
        self._idle.set()

    def _start_over(self) -> None:
        """Begin the next generation with everything held as its first changes."""
        self._dirty = False
        self._pending = {holding.key: (holding, True) for holding in self._mirror.snapshot()}
        self._republished_at = self._clock()
        self.stats.republishes += 1

    async def _push_chunk(self) -> None:
        chunk = dict(islice(self._pending.items(), self._chunk))
        for key in chunk:
            del self._pending[key]
        self._pushing_since = self._clock()
        try:
            await self._directory.apply(
                self._replica,
                self.incarnation,
                stored=[holding for holding, is_held in chunk.values() if is_held],
                removed=[holding for holding, is_held in chunk.values() if not is_held],
            )
        except BaseException:
            # Also when cancelled: the chunk is in neither place now.
            self.mark_dirty()
            raise
        finally:
            self._pushing_since = math.inf
        self.stats.pushes += 1

    def _backoff_s(self, failures: int) -> float:
        longest = min(self._max_backoff_s, 0.05 * 2.0 ** min(failures, 10))
        return longest * self._chance.uniform(0.5, 1.0)
