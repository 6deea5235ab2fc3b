"""The directory ends up with what the mirror has, whatever fails on the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aloraserve.blocks import BlockKey, BlocksCleared, BlocksRemoved, BlocksStored, EngineEvent, EventBatch, KeySpace
from aloraserve.directory.base import FORGET_S, NODE_TTL_S, Epoch, Holding, ReplicaState
from aloraserve.directory.ingest import FILL_S, Ingest
from aloraserve.directory.memory import MemoryDirectory
from aloraserve.directory.mirror import Mirror
from aloraserve.errors import DirectoryUnavailableError

SPACE = KeySpace("model", "tokenizer", 1)
PROMPT = list(range(200))
KEYS = SPACE.keys(PROMPT)
STATE = ReplicaState("a", "overwritten")


class FlakyDirectory(MemoryDirectory):
    """Fails while ``broken``; ``fail_at`` names applies, by count, that fail after taking effect."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.broken = self.refuses = False
        self.fail_at: set[int] = set()
        self.applies = 0
        self.sizes: list[int] = []

    async def publish(self, state: ReplicaState, *, ttl_s: float = 2.0, settled: Sequence[str] = ()) -> None:
        self._check()
        await super().publish(state, ttl_s=ttl_s, settled=settled)

    async def epoch(self) -> Mapping[str, Epoch]:
        self._check()
        return await super().epoch()

    async def apply(
        self,
        replica: str,
        incarnation: str,
        *,
        stored: Sequence[Holding] = (),
        removed: Sequence[Holding] = (),
        **options: Any,
    ) -> Set[str]:
        self._check()
        await asyncio.sleep(0)
        if self.refuses:
            raise DirectoryUnavailableError("told to refuse")
        news = await super().apply(replica, incarnation, stored=stored, removed=removed, **options)
        self.applies += 1
        self.sizes.append(len(stored) + len(removed))
        if self.applies in self.fail_at:
            raise DirectoryUnavailableError("told to fail")
        return news

    def _check(self) -> None:
        if self.broken:
            raise DirectoryUnavailableError("told to be broken")


class PartedDirectory(FlakyDirectory):
    """Has the parts that a test names; pushes wait while it is ``stuck``."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs = {part: Epoch("content", "copy") for part in ("one", "two")}
        self.part_by_head: dict[BlockKey, str] = {}
        self.stuck: asyncio.Event | None = None

    def part(self, head: BlockKey) -> str:
        return self.part_by_head.get(head, "one")

    async def epoch(self) -> Mapping[str, Epoch]:
        return dict(self.epochs)

    async def apply(self, replica: str, incarnation: str, **options: Any) -> Set[str]:
        if self.stuck is not None:
            await self.stuck.wait()
        return await super().apply(replica, incarnation, **options)


class Source:
    """Numbers batches as an engine does."""

    def __init__(self, ingest: Ingest) -> None:
        self.ingest = ingest
        self.sequence = 0

    def send(self, *events: EngineEvent) -> None:
        self.ingest.offer(EventBatch(self.sequence, events))
        self.sequence += 1


def stored(first: int, count: int) -> BlocksStored:
    parent = first - 1 if first else None
    return BlocksStored(tuple(range(first, first + count)), parent, tuple(PROMPT[first : first + count]))


@asynccontextmanager
async def running(ingest: Ingest) -> AsyncIterator[None]:
    task = asyncio.create_task(ingest.run())
    try:
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def eventually(check: Callable[[], bool], within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline, "did not come true in time"
        await asyncio.sleep(0.005)


async def held(directory: MemoryDirectory) -> int:
    return next(iter(await directory.lookup(KEYS))).held_blocks


def build(directory: MemoryDirectory, **options: Any) -> tuple[Ingest, Mirror, Source]:
    mirror = Mirror(SPACE, lambda _: None)
    ingest = Ingest(directory, "a", "start", mirror, **{"max_backoff_s": 0.02, "check_every_s": 0.0} | options)
    return ingest, mirror, Source(ingest)


async def publish(ingest: Ingest, source: Source, event: BlocksStored) -> None:
    """Have an event pushed, and then the replica's state, which makes it count."""
    source.send(event)
    assert await ingest.drain(5)
    assert await ingest.heartbeat(STATE)


async def test_changes_arrive_in_chunks_of_the_given_size() -> None:
    directory = FlakyDirectory()
    ingest, _, source = build(directory, chunk=16)
    source.send(stored(0, 100))
    assert not await ingest.drain(0.01)
    async with running(ingest):
        assert await ingest.drain(5)
        assert await ingest.heartbeat(STATE)
        assert await held(directory) == 100
        source.send(BlocksRemoved((98, 99)))
        assert await ingest.drain(5)
        assert await held(directory) == 98
    assert max(directory.sizes) == 16
    assert ingest.stats.events == 2
    assert ingest.stats.republishes == 0


async def test_a_block_stored_and_removed_while_waiting_is_one_change() -> None:
    directory = FlakyDirectory()
    ingest, _, source = build(directory)
    source.send(stored(0, 1), BlocksRemoved((0,)), stored(0, 1))
    assert ingest.pending == 1
    async with running(ingest):
        assert await ingest.drain(5)
        await ingest.heartbeat(STATE)
        assert await held(directory) == 1


async def test_the_heartbeat_names_the_current_generation_and_what_is_held() -> None:
    directory = FlakyDirectory()
    ingest, _, source = build(directory)
    source.send(stored(0, 3))
    await ingest.heartbeat(STATE)
    assert await directory.states() == [ReplicaState("a", ingest.incarnation, held_blocks=3)]


async def test_after_an_outage_the_directory_equals_the_snapshot() -> None:
    directory = FlakyDirectory()
    ingest, mirror, source = build(directory, chunk=8)
    async with running(ingest):
        source.send(stored(0, 50))
        assert await ingest.drain(5)
        directory.broken = True
        source.send(BlocksRemoved(tuple(range(40, 50))))
        await eventually(lambda: ingest.stats.push_failures >= 2)
        assert not await ingest.heartbeat(STATE)
        source.send(BlocksRemoved(tuple(range(30, 40))))
        directory.broken = False
        assert await ingest.drain(5)
        assert await ingest.heartbeat(STATE)
    assert await held(directory) == 30 == len(mirror)
    assert ingest.stats.heartbeat_failures == 1


@pytest.mark.parametrize("fail_at", [{1}, {3}, {2, 4, 6}])
async def test_a_push_that_fails_halfway_leaves_nothing_stale(fail_at: set[int]) -> None:
    directory = FlakyDirectory()
    directory.fail_at = fail_at
    ingest, mirror, source = build(directory, chunk=8)
    async with running(ingest):
        source.send(stored(0, 60))
        await eventually(lambda: directory.applies >= 1)
        source.send(BlocksRemoved(tuple(range(20, 60))))
        assert await ingest.drain(5)
        assert await ingest.heartbeat(STATE)
    assert await held(directory) == 20 == len(mirror)
    assert ingest.stats.push_failures == len(fail_at & set(range(directory.applies + 1)))


async def test_a_queue_over_its_bound_is_given_up_and_published_again() -> None:
    directory = FlakyDirectory()
    ingest, mirror, source = build(directory, max_pending=10)
    source.send(stored(0, 50))
    source.send(BlocksRemoved(tuple(range(20, 50))))
    assert ingest.stats.overflows == 1
    assert ingest.pending == 0
    async with running(ingest):
        assert await ingest.drain(5)
        assert await ingest.heartbeat(STATE)
    assert await held(directory) == 20 == len(mirror)
    assert ingest.stats.republishes == 1


async def test_a_gap_empties_the_holdings_and_calls_back() -> None:
    directory = FlakyDirectory()
    gaps: list[int] = []
    ingest, mirror, source = build(directory, on_gap=lambda: gaps.append(1))
    async with running(ingest):
        source.send(stored(0, 10))
        assert await ingest.drain(5)
        source.sequence += 1
        source.send(stored(10, 2))
        assert len(mirror) == 0
        assert await ingest.drain(5)
        assert await ingest.heartbeat(STATE)
        assert await held(directory) == 0
        source.send(BlocksCleared(), stored(0, 4))
        assert await ingest.drain(5)
    assert await held(directory) == 4
    assert gaps == [1]
    assert ingest.stats.gaps == 1


async def test_a_directory_that_lost_everything_is_filled_again() -> None:
    directory = FlakyDirectory()
    ingest, _, source = build(directory)
    async with running(ingest):
        await publish(ingest, source, stored(0, 10))
        directory.clear()
        assert await ingest.heartbeat(STATE)
        assert await ingest.drain(5)
        assert await ingest.heartbeat(STATE)
    assert await held(directory) == 10
    assert ingest.stats.republishes == 1


async def test_a_directory_lost_before_the_first_heartbeat_is_noticed() -> None:
    directory = FlakyDirectory()
    ingest, _, source = build(directory)
    async with running(ingest):
        source.send(stored(0, 10))
        assert await ingest.drain(5)
        directory.clear()
        assert await ingest.heartbeat(STATE)
        assert await ingest.drain(5)
        assert await ingest.heartbeat(STATE)
    assert await held(directory) == 10


@pytest.mark.parametrize("silence_s", [FORGET_S / 2 + 1, NODE_TTL_S / 2 + 1])
async def test_everything_is_published_again_before_it_is_forgotten(silence_s: float) -> None:
    directory = FlakyDirectory()
    now = [0.0]
    ingest, _, source = build(directory, clock=lambda: now[0])
    async with running(ingest):
        source.send(stored(0, 10))
        await ingest.heartbeat(STATE)
        assert await ingest.drain(5)
        now[0] += silence_s
        await ingest.heartbeat(STATE)
        assert await ingest.drain(5)
    assert ingest.stats.republishes >= 1


async def test_a_cancelled_push_is_made_up_for() -> None:
    directory = FlakyDirectory()
    ingest, _, source = build(directory)
    source.send(stored(0, 10))
    async with running(ingest):
        await asyncio.sleep(0)
    async with running(ingest):
        assert await ingest.drain(5)
        assert await ingest.heartbeat(STATE)
    assert await held(directory) == 10


async def test_nothing_counts_beside_a_push_that_hangs() -> None:
    now = 0.0
    directory = FlakyDirectory()
    ingest, _, source = build(directory, clock=lambda: now)
    async with running(ingest):
        await publish(ingest, source, stored(0, 10))
        assert await held(directory) == 10
        arrived = asyncio.Event()

        async def hang(*_: Any, **__: Any) -> None:
            arrived.set()
            await asyncio.Event().wait()

        directory.apply = hang  # type: ignore[method-assign]
        source.send(BlocksRemoved(tuple(range(5, 10))))
        await asyncio.wait_for(arrived.wait(), 5)
        now = 1.1
        assert await ingest.heartbeat(STATE)
        assert await held(directory) == 0


async def test_a_push_that_may_not_have_arrived_is_made_again_and_nothing_stops_counting() -> None:
    directory = FlakyDirectory()
    ingest, _, source = build(directory)
    async with running(ingest):
        await publish(ingest, source, stored(0, 100))
        before, pushed = ingest.incarnation, sum(directory.sizes)
        directory.fail_at = {directory.applies + 1}
        source.send(BlocksRemoved((98, 99)))
        await eventually(lambda: ingest.stats.push_failures == 1)
        assert await ingest.heartbeat(STATE)
        assert await held(directory) >= 98
        assert await ingest.drain(5)
    assert await held(directory) == 98
    assert ingest.incarnation == before
    assert sum(directory.sizes) == pushed + 2 * 2
    assert ingest.stats.republishes == 0


async def test_nothing_counts_while_pushes_fail_for_long_and_then_all_does_again() -> None:
    now = 0.0
    directory = FlakyDirectory()
    ingest, _, source = build(directory, clock=lambda: now)
    async with running(ingest):
        await publish(ingest, source, stored(0, 100))
        before, pushed = ingest.incarnation, sum(directory.sizes)
        directory.refuses = True
        source.send(BlocksRemoved((99,)))
        await eventually(lambda: ingest.stats.push_failures > 0)
        now = 0.9
        assert await ingest.heartbeat(STATE)
        assert await held(directory) == 100
        now = 1.1
        assert await ingest.heartbeat(STATE)
        assert await held(directory) == 0
        directory.refuses = False
        assert await ingest.drain(5)
        assert await ingest.heartbeat(STATE)
    assert await held(directory) == 99
    assert ingest.incarnation == before
    assert sum(directory.sizes) == pushed + 1


async def test_after_an_outage_nothing_counts_until_what_is_gone_was_removed() -> None:
    now = 0.0
    directory = FlakyDirectory()
    ingest, _, source = build(directory, chunk=8, max_backoff_s=60.0, clock=lambda: now)
    async with running(ingest):
        await publish(ingest, source, stored(0, 100))
        directory.broken = True
        source.send(BlocksRemoved(tuple(range(40, 100))))
        await eventually(lambda: ingest.stats.push_failures > 0)
        assert not await ingest.heartbeat(STATE)
        now = 2.0
        directory.broken = False
        seen = set()
        while ingest.pending:
            assert await ingest.heartbeat(STATE)
            seen.add(await held(directory))
            await asyncio.sleep(0)
        assert await ingest.drain(5)
        assert await ingest.heartbeat(STATE)
        assert seen <= {0, 40}
        assert await held(directory) == 40


async def test_what_counts_until_the_next_generation_is_whole_loses_what_goes() -> None:
    directory = PartedDirectory()
    ingest, _, source = build(directory, chunk=8)
    async with running(ingest):
        await publish(ingest, source, stored(0, 100))
        before = ingest.incarnation
        directory.epochs = {part: Epoch("content", "older copy") for part in directory.epochs}
        assert await ingest.heartbeat(STATE)
        source.send(BlocksRemoved(tuple(range(50, 100))))
        applies = directory.applies
        await eventually(lambda: directory.applies >= applies + 50 / 8)
        assert ingest.incarnation == before
        assert await held(directory) == 50
        assert await ingest.drain(5)
        assert await ingest.heartbeat(STATE)
        assert ingest.incarnation != before
        assert await held(directory) == 50


async def test_an_outage_of_pushes_and_heartbeats_alike_costs_no_generation() -> None:
    now = 0.0
    directory = FlakyDirectory(clock=lambda: now)
    ingest, mirror, source = build(directory, clock=lambda: now)
    async with running(ingest):
        await publish(ingest, source, stored(0, 50))
        before = ingest.incarnation
        directory.broken = True
        source.send(BlocksRemoved(tuple(range(40, 50))))
        for seconds in (1.0, 2.0, 60.0):
            now = seconds
            assert not await ingest.heartbeat(STATE)
        await eventually(lambda: ingest.stats.push_failures > 0)
        directory.broken = False
        assert await ingest.heartbeat(STATE)
        assert await ingest.drain(5)
        assert await ingest.heartbeat(STATE)
    assert await held(directory) == 40 == len(mirror)
    assert ingest.incarnation == before


@pytest.mark.parametrize("silence_s", [FORGET_S / 2 + 1, NODE_TTL_S / 2 + 1])
async def test_a_scheduled_republish_replaces_in_place(silence_s: float) -> None:
    now = 0.0
    directory = FlakyDirectory()
    ingest, _, source = build(directory, chunk=16, clock=lambda: now)
    async with running(ingest):
        await publish(ingest, source, stored(0, 200))
        before, pushed = ingest.incarnation, sum(directory.sizes)
        now = silence_s
        seen = set()
        while sum(directory.sizes) < pushed + 200:
            assert await ingest.heartbeat(STATE)
            seen.add(await held(directory))
            await asyncio.sleep(0)
        assert await ingest.drain(5)
    assert seen == {200}
    assert ingest.incarnation == before


async def test_removals_go_before_what_is_only_pushed_again() -> None:
    directory = FlakyDirectory()
    now = 0.0
    ingest, _, source = build(directory, chunk=16, clock=lambda: now)
    async with running(ingest):
        await publish(ingest, source, stored(0, 100))
        now = NODE_TTL_S
        assert await ingest.heartbeat(STATE)
        source.send(BlocksRemoved(tuple(range(90, 100))))
        applies = directory.applies
        await eventually(lambda: directory.applies > applies)
        assert await held(directory) == 90
        assert ingest.pending > 0


async def test_a_part_that_lost_its_content_is_filled_again_and_no_other() -> None:
    directory = PartedDirectory()
    ingest, _, source = build(directory)
    other = SPACE.keys([7] * 10)
    directory.part_by_head = {KEYS[0]: "one", other[0]: "two"}
    async with running(ingest):
        source.send(stored(0, 10))
        source.send(BlocksStored(tuple(range(1000, 1010)), None, (7,) * 10))
        assert await ingest.drain(5)
        assert await ingest.heartbeat(STATE)
        pushed = sum(directory.sizes)
        directory.epochs["two"] = Epoch("emptied", "copy")
        assert await ingest.heartbeat(STATE)
        assert await ingest.drain(5)
    assert sum(directory.sizes) == pushed + 10
    assert ingest.incarnation.endswith(".0")


async def test_what_an_older_copy_says_counts_until_the_next_generation_is_whole() -> None:
    directory = PartedDirectory()
    now = 0.0
    ingest, _, source = build(directory, chunk=8, clock=lambda: now)
    async with running(ingest):
        await publish(ingest, source, stored(0, 100))
        before = ingest.incarnation
        directory.epochs = {part: Epoch("content", "older copy") for part in directory.epochs}
        seen = set()
        while ingest.incarnation == before:
            assert await ingest.heartbeat(STATE)
            seen.add(await held(directory))
            await asyncio.sleep(0)
        assert await ingest.heartbeat(STATE)
        assert seen == {100} == {await held(directory)}
        source.send(BlocksRemoved(tuple(range(50, 100))))
        assert await ingest.drain(5)
        assert await held(directory) == 50


async def test_what_an_older_copy_says_stops_counting_in_time() -> None:
    directory = PartedDirectory()
    now = 0.0
    ingest, _, source = build(directory, clock=lambda: now)
    async with running(ingest):
        await publish(ingest, source, stored(0, 100))
        before = ingest.incarnation
        directory.epochs = {part: Epoch("content", "older copy") for part in directory.epochs}
        directory.stuck = asyncio.Event()
        assert await ingest.heartbeat(STATE)
        assert ingest.incarnation == before
        now = FILL_S + 0.1
        assert await ingest.heartbeat(STATE)
        assert ingest.incarnation != before
        directory.stuck.set()
        assert await ingest.drain(5)


async def test_what_was_freed_while_a_replica_did_not_publish_is_pushed_again() -> None:
    now = 0.0
    directory = FlakyDirectory(clock=lambda: now)
    ingest, _, source = build(directory)
    async with running(ingest):
        source.send(stored(0, 100))
        assert await ingest.drain(5)
        now = FORGET_S + 1
        assert await directory.reclaim(max_fields=40)
        await publish(ingest, source, stored(100, 1))
    assert await held(directory) == 101


async def test_a_loss_that_a_push_meets_is_made_up_for_once() -> None:
    directory = FlakyDirectory()
    ingest, _, source = build(directory)
    async with running(ingest):
        await publish(ingest, source, stored(0, 100))
        directory.clear()
        await publish(ingest, source, stored(100, 1))
        assert await ingest.drain(5)
    assert await held(directory) == 101
    assert ingest.stats.republishes == 1


async def test_a_new_generation_strikes_off_what_earlier_ones_left() -> None:
    directory = FlakyDirectory()
    ingest, _, source = build(directory)
    async with running(ingest):
        await publish(ingest, source, stored(0, 100))
        before = ingest.incarnation
        ingest.start_over()
        assert await ingest.heartbeat(STATE)
        assert await held(directory) == 0
        assert await ingest.drain(5)
        assert await held(directory) == 100
    await directory.publish(ReplicaState("a", before))
    assert await held(directory) == 0


async def test_replicas_that_start_together_publish_again_at_different_times() -> None:
    periods = {Ingest(MemoryDirectory(), name, "1", Mirror(SPACE, {}.get))._republish_every_s for name in "abcdefgh"}
    assert len(periods) == 8
    assert all(NODE_TTL_S / 3 < period <= NODE_TTL_S / 2 for period in periods)
