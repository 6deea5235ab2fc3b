"""From an engine's events to the directory's holdings: in order, bounded, and whole again after an outage.

- A push that may not have arrived is made again, with a greater fence, and then the lost one has no effect. While
  pushes fail for longer than ``STUCK_PUSH_S``, heartbeats name an incarnation that has nothing; once what is gone was
  removed, they name the last one again. Nothing else is pushed for the sake of an outage.
- Everything is pushed again, in place and at a pace, where nothing is wrong: on schedule, after a silence, and after
  the directory (or a part of it) lost its content.
- Where what the directory has may be wrong, and it cannot be said where, the replica begins a new *generation*: its
  incarnation gets the next suffix, and everything it holds is pushed again under it. If the directory is an older copy
  of itself, the old generation counts until the new one is whole, at most for ``FILL_S``. If events or changes were
  lost here, it stops counting at once.

What earlier generations left is struck off by the pushes themselves, and else freed in the background.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Generic

from typing_extensions import TypeVar

from aloraserve.blocks import EngineEvent
from aloraserve.directory.base import FORGET_S, LEASE_TTL_S, NODE_TTL_S, Directory, Epoch, ReplicaState
from aloraserve.directory.change_queue import ChangeQueue
from aloraserve.directory.engine_mirror import Batch, EngineMirror
from aloraserve.directory.generations import Generations
from aloraserve.directory.mirror import Delta
from aloraserve.directory.push_pace import PushPace
from aloraserve.errors import DirectoryUnavailableError

EventT = TypeVar("EventT", default=EngineEvent)

STUCK_PUSH_S = 1.0
"""How long heartbeats may renew what a push that does not get through would have removed."""
LEAST_BACKOFF_S = 0.05
FILL_S = 5.0
"""How long what an older copy of the directory says goes on to count while everything is pushed again."""


class _Everything(frozenset[str]):
    """Has every part."""

    def __contains__(self, part: object) -> bool:
        return True

    def __or__(self, other: object) -> _Everything:
        return self

    __ror__ = __or__


_ALL = _Everything()


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


class Ingest(Generic[EventT]):
    """Keeps a replica's holdings and lease in the directory.

    Every method is called on one event loop, whose time its waits go by. One task runs :meth:`run`; another calls
    :meth:`heartbeat` several times per second.

    Args:
        directory: where to.
        replica: the replica's id.
        incarnation: its start number; see :attr:`incarnation` for what is published.
        mirror: what the engine holds; owned by this object from now on.
        on_gap: called when events were lost. The replica should reset its prefix cache, because blocks whose
            parent was lost cannot be placed; until then it holds more than the directory knows.
        max_pending: changes that may wait beyond the number of keys held before everything is pushed again.
        chunk: keys a push at most, up to 4096; fewer while pushes are slow. Redis answers no lookup during one, so it
            should be well within their budget.
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
        self._generations = Generations(incarnation)
        self._mirror = mirror
        self._on_gap = on_gap
        self._max_pending = max_pending
        self._max_backoff_s = max_backoff_s
        self._chance = chance or random.Random()  # noqa: S311 - no secret
        self._republish_every_s = republish_every_s or NODE_TTL_S / 2 * self._chance.uniform(5 / 6, 1.0)
        self._check_every_s = check_every_s
        self._keep_every_s = keep_every_s
        self._clock = clock
        self._pace = PushPace(chunk, self._chance)
        self._is_paced = self._is_silent = False
        self._fence = 0
        self._pushing_since = self._failing_since = math.inf
        self._queue = ChangeQueue()
        self._renewed: frozenset[str] | None = None
        self._known_by = ""
        self._known_parts: set[str] = set()
        self._next_sequence = 0
        self._epoch: Mapping[str, Epoch] | None = None
        self._published_at = self._republished_at = clock()
        self._checked_at = self._kept_at = -math.inf
        self._work, self._idle, self._retry = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._idle.set()

    @property
    def incarnation(self) -> str:
        """The incarnation that the replica's published state must name now; :meth:`heartbeat` sees to it."""
        return self._generations.nothing if self._is_late else self._generations.named

    @property
    def is_behind(self) -> bool:
        """Whether the next heartbeat may name another incarnation than the last."""
        return self._is_late or self._generations.is_replacing

    @property
    def pending(self) -> int:
        """How many changes wait to be pushed."""
        return len(self._queue)

    def offer(self, batch: Batch[EventT]) -> None:
        """Take in a batch: into the mirror at once, into the directory soon. Never blocks, never raises."""
        if batch.sequence != self._next_sequence:
            self.lose_events()
        self._next_sequence = batch.sequence + 1
        for event in batch.events:
            self.stats.events += 1
            self._enqueue(self._mirror.apply(event))

    def lose_events(self) -> None:
        """Have nothing count that was held so far: nobody knows any more what the engine has."""
        self.stats.gaps += 1
        self._mirror.clear()
        self.start_over()
        self._on_gap()

    def start_over(self) -> None:
        """Have everything pushed again under the next generation, and nothing count that was pushed before."""
        self._generations.abandon()
        self._queue.clear()
        self._renew(_ALL)

    async def run(self) -> None:
        """Push changes until cancelled; a failed push is made again."""
        failures = 0
        while True:
            await self._work.wait()
            try:
                await self._push_all()
                failures = 0
            except DirectoryUnavailableError:
                self.stats.push_failures += 1
                failures += 1
                await self._wait_to_retry(failures)

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
        if now - self._republished_at > self._republish_every_s or now - self._published_at > FORGET_S / 2:
            self._renew(_ALL)
        self._generations.on_time(now)
        try:
            published = replace(state, incarnation=self.incarnation, held_blocks=len(self._mirror))
            await self._directory.publish(published, ttl_s=ttl_s, settled=settled)
            self._note_answer()
            await self._keep_up()
        except DirectoryUnavailableError:
            self._is_silent = True
            self.stats.heartbeat_failures += 1
            return False
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

    @property
    def _is_late(self) -> bool:
        """Whether blocks that are gone count for too long already, as their removal does not get through."""
        since = min(self._pushing_since, self._failing_since)
        return self._clock() - since > STUCK_PUSH_S

    def _note_answer(self) -> None:
        """Have changes that wait for another try go on where the directory answers again."""
        if self._is_silent:
            self._retry.set()
        self._is_silent = False
        self._published_at = self._clock()

    def _enqueue(self, delta: Delta) -> None:
        if not (delta.stored or delta.removed):
            return
        self._queue.add(delta)
        self._wake()
        if len(self._queue) > self._max_pending + len(self._mirror):
            self.stats.overflows += 1
            self.start_over()

    def _wake(self) -> None:
        self._idle.clear()
        self._work.set()

    def _renew(self, parts: frozenset[str]) -> None:
        """Have everything pushed again that is held in these parts of the directory."""
        self._renewed = parts if self._renewed is None else self._renewed | parts
        self._wake()

    async def _check_epoch(self) -> None:
        epoch = await self._directory.epoch()
        known = self._epoch or epoch
        lost = frozenset(part for part, now in epoch.items() if part in known and known[part].content != now.content)
        self._epoch = epoch
        self._known_parts -= lost
        if any(known[part].copy != now.copy for part, now in epoch.items() if part in known and part not in lost):
            self._generations.replace(self._clock() + FILL_S)
            self._renew(_ALL)
        elif lost:
            self._renew(lost)

    async def _push_all(self) -> None:
        # An epoch noted only after the first push would hide a restart in between.
        if self._epoch is None:
            await self._check_epoch()
        while self._renewed is not None or self._queue:
            if self._renewed is not None:
                self._begin_renewal(self._renewed)
            woke_late_s = await self._rest() if self._is_paced else 0.0
            if self._queue:
                await self._push(woke_late_s)
        self._generations.whole()
        self._is_paced = False
        self._work.clear()
        self._idle.set()

    def _begin_renewal(self, parts: frozenset[str]) -> None:
        self._renewed = None
        self._queue.renew(holding for holding in self._mirror.snapshot() if self._directory.part(holding.head) in parts)
        self._republished_at = self._clock()
        self._pace.begin()
        self._is_paced = True
        self.stats.republishes += 1

    async def _rest(self) -> float:
        """Let others go first; return how much longer this took than it should."""
        rest_s, began_at = self._pace.rest_s(), self._clock()
        await asyncio.sleep(rest_s)
        return max(0.0, self._clock() - began_at - rest_s)

    async def _push(self, woke_late_s: float) -> None:
        # What counts until the next generation is whole loses what goes, too.
        changes = self._queue.take(self._pace.keys, alike=self._generations.is_replacing)
        generation = self._generations.filled
        self._pushing_since = began_at = self._clock()
        try:
            news = await self._directory.apply(
                self._replica,
                generation,
                stored=changes.stored,
                removed=changes.removed,
                fence=self._fence,
                former=self._generations.former(removing=bool(changes.removed)),
            )
        except BaseException:
            # Also when cancelled: it may arrive, now or later.
            self._fence += 1
            self._failing_since = min(self._failing_since, began_at)
            if generation == self._generations.filled:
                self._queue.put_back(changes)
            self._wake()
            raise
        finally:
            self._pushing_since = math.inf
        if not self._queue.has_removals:
            self._failing_since = math.inf
        self._pace.done(self._clock() - began_at, woke_late_s)
        self.stats.pushes += 1
        await self._note_parts(generation, news)

    async def _note_parts(self, generation: str, news: Set[str]) -> None:
        """Have everything pushed again in parts that have not kept what this generation pushed before."""
        if generation != self._known_by:
            self._known_by, self._known_parts = generation, set()
        if lost := self._known_parts & news:
            self._renew(frozenset(lost))
            # Now, so that it is not found out and made up for a second time.
            await self._check_epoch()
        self._known_parts |= news

    async def _wait_to_retry(self, failures: int) -> None:
        """Wait, longer after each failure, unless a heartbeat says that it is time."""
        longest = min(self._max_backoff_s, LEAST_BACKOFF_S * 2.0 ** min(failures, 10))
        self._retry.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest * self._chance.uniform(0.5, 1.0)):
                await self._retry.wait()
