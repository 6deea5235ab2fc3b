"""A replica without Serve around it: what it publishes before it lets an answer go, and what it forgets."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import Counter
from collections.abc import AsyncGenerator
from itertools import chain
from typing import Any

import pytest
from support.engine_host import PLAIN, SPACE, RecordingDirectory, engine_call, started_host

from aloraserve.blocks import KeySpace
from aloraserve.directory.memory import MemoryDirectory
from aloraserve.directory.mirror import Mirror
from aloraserve.errors import KeySpaceMismatchError
from aloraserve.routing.scheduling import AGEING
from aloraserve.serving.engine_messages import EngineCall, EngineChunk, EngineReply
from aloraserve_services.engine.heartbeat import MIN_HEARTBEAT_S
from aloraserve_services.engine.host import join_fleet
from aloraserve_services.engine.simulated.faults import SeverableDirectory

LONG = 2000
"""Tokens whose prefill takes longer than the time between two heartbeats."""
LONG_ANSWER = 9000
"""Tokens of an answer that goes on while the test runs: the engine does not wait for its reader."""


def reports(directory: RecordingDirectory, since: int = 0) -> Counter[str]:
    """How often each call was reported as settled since so many publications."""
    return Counter(chain.from_iterable(directory.settled[since:]))


@pytest.fixture
async def directory() -> RecordingDirectory:
    return RecordingDirectory()


@pytest.mark.parametrize("max_tokens", [1, 2], ids=["one chunk", "two chunks"])
async def test_the_end_of_a_prefill_is_published_before_the_answer_ends(
    max_tokens: int, directory: RecordingDirectory
) -> None:
    """The conversation's next call follows at once, and must not meet this prefill in the queue."""
    async with started_host(directory) as started:
        directory.delay_s = 0.005
        finished = []
        async for reply in started.host.generate(engine_call(tokens=LONG, max_tokens=max_tokens)):
            assert isinstance(reply, EngineChunk)
            if reply.finish_reason:
                finished.append(reply.finish_reason)
                assert directory.published[-1].load.waiting == 0
        assert finished == ["length"]
        assert 1 in [state.load.waiting for state in directory.published], "it was reported as waiting before"


async def test_an_answer_is_not_held_for_a_directory_that_hangs(directory: RecordingDirectory) -> None:
    async with started_host(directory) as started:
        directory.hangs = True
        async with asyncio.timeout(60):
            assert len(await started.answer(engine_call())) == 1


async def test_no_answer_is_held_while_the_directory_is_gone(directory: RecordingDirectory) -> None:
    async with started_host(directory, answer_held_s=60.0) as started:
        directory.is_gone = True
        failures = started.host.ingest.stats.heartbeat_failures
        async with asyncio.timeout(60):
            while started.host.ingest.stats.heartbeat_failures == failures:
                await directory.until(len(directory.published) + 1)
        # No heartbeat ends any more: an answer that waited for one would wait until the time is over.
        directory.hangs = True
        async with asyncio.timeout(20):
            assert len(await started.answer(engine_call())) == 1


async def test_calls_are_settled_with_the_first_heartbeats_that_reach_the_directory(
    directory: RecordingDirectory,
) -> None:
    """A claim counts until then, and the load that goes with it has the call from then on."""
    async with started_host(directory, PLAIN) as started:
        # The warm-up's own calls are reported again after a second.
        async with asyncio.timeout(60):
            while set(reports(directory).values()) != {2}:
                await directory.until(len(directory.settled) + 1)
        directory.is_gone = True
        async for _ in started.host.generate(engine_call(adapter=PLAIN)):
            await directory.until(len(directory.settled) + 2)
        await directory.until(3)
        assert directory.settled[-1] == ("r",)
        directory.is_gone = False
        before = len(directory.settled)
        async with asyncio.timeout(60):
            while reports(directory, before)["r"] < 2:
                await directory.until(len(directory.settled) + 1)
        await directory.until(len(directory.settled) + 3)
        assert reports(directory, before)["r"] == 2, "a claim that was late may come after the first"
        assert (PLAIN.key,) in [state.active_adapters for state in directory.published]
        assert directory.published[-1].active_adapters == ()


async def test_token_ids_leave_the_replica_where_a_call_asks_for_them(directory: RecordingDirectory) -> None:
    async with started_host(directory) as started:
        plain = await started.answer(engine_call("plain"))
        shown = await started.answer(dataclasses.replace(engine_call("shown"), shows_tokens=True))
        assert [len(chunk.token_ids) for chunk in plain] == [0] * len(plain)
        assert [len(chunk.token_ids) for chunk in shown] == [chunk.tokens for chunk in shown]


async def test_many_prefills_at_once_are_few_heartbeats(directory: RecordingDirectory) -> None:
    async with started_host(directory) as started:
        before, began = len(directory.published), asyncio.get_running_loop().time()
        for number in range(200):
            # Two tokens, of which the first alone is taken: no answer's end is held.
            replies = started.host.generate(engine_call(f"r-{number}", tokens=9, max_tokens=2))
            await anext(replies)
            await replies.aclose()
        took_s = asyncio.get_running_loop().time() - began
        assert len(directory.published) - before <= 2 + took_s / MIN_HEARTBEAT_S


@pytest.mark.parametrize("is_emptied", [True, False])
async def test_savings_follow_the_engines_cache_when_it_is_emptied(
    directory: RecordingDirectory, is_emptied: bool
) -> None:
    async with started_host(directory) as started:
        first = await started.answer(engine_call("first"))
        other = started.host.generate(engine_call("other", tokens=9, max_tokens=LONG_ANSWER))
        await anext(other)
        assert await started.host.empty_cache(preempt=is_emptied) == is_emptied
        second = await started.answer(engine_call("second"))
        await other.aclose()
        assert first[0].savings.counterfactual_cached_tokens == 0
        assert second[0].savings.counterfactual_cached_tokens == (0 if is_emptied else 96)


async def test_closing_ends_the_engine_s_own_call_and_whoever_follows_it_hears_of_that(
    directory: RecordingDirectory,
) -> None:
    class Followed(list[str]):
        def chunk(self, chunk: EngineChunk) -> None:
            self.append("chunk")

        def end(self) -> None:
            self.append("end")

    followed = Followed()
    async with started_host(directory) as started:
        started.host.observe(lambda call: followed)
        replies = started.host.generate(engine_call(max_tokens=LONG_ANSWER))
        await anext(replies)
        assert started.engine.kv_usage > 0
        await replies.aclose()
        assert started.engine.kv_usage == 0
    assert followed == ["chunk", "end"]


async def test_after_lost_events_the_engine_s_cache_is_emptied(directory: RecordingDirectory) -> None:
    async with started_host(directory) as started:
        await started.answer(engine_call("first"))
        started.events.inject("lose-events")
        await started.answer(engine_call("lost", tokens=500))
        started.events.inject(None)
        # A step after the gap shows it.
        await started.answer(engine_call("shows", tokens=700))
        async with asyncio.timeout(60):
            while (await started.answer(engine_call("second")))[0].cached_tokens:
                # An idle moment, in which the cache can be emptied.
                await directory.until(len(directory.published) + 2)
        assert started.host.ingest.stats.gaps == 1


async def test_a_replica_whose_engine_has_ended_gives_its_lease_back(directory: RecordingDirectory) -> None:
    async with started_host(directory) as started:
        assert [state.replica for state in await directory.states()] == ["a"]
        started.engine.shutdown()
        async with asyncio.timeout(60):
            await directory.retired.wait()
        assert await directory.states() == []


async def test_a_call_that_cannot_be_followed_is_not_counted_for_ever(directory: RecordingDirectory) -> None:
    def failing(call: EngineCall) -> Any:
        raise RuntimeError("no metrics")

    async with started_host(directory) as started:
        started.host.observe(failing)
        with pytest.raises(RuntimeError, match="no metrics"):
            await anext(started.host.generate(engine_call()))
        load = started.host._state().load
        assert (load.running, load.waiting) == (0, 0)


async def test_a_replica_of_another_key_space_is_refused_before_its_engine_starts() -> None:
    directory = MemoryDirectory()
    await directory.join(KeySpace("model", "tokenizer", 32))
    with pytest.raises(KeySpaceMismatchError, match="block_tokens is 16 and the fleet's is 32"):
        await join_fleet(directory, KeySpace("model", "tokenizer", 16), "engine-0")


async def test_a_replica_starts_without_the_directory() -> None:
    directory = SeverableDirectory(MemoryDirectory())
    directory.is_severed = True
    await join_fleet(directory, SPACE, "engine-0")


async def test_the_engine_gets_each_call_s_priority(
    directory: RecordingDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started_host(directory) as started:
        priorities: list[int] = []
        generate = started.engine.generate

        def recorded(call: EngineCall, priority: int = 0) -> AsyncGenerator[EngineReply]:
            priorities.append(priority)
            return generate(call, priority)

        monkeypatch.setattr(started.engine, "generate", recorded)
        begun_at = time.monotonic()
        for name in ("cold", "held"):
            await started.answer(engine_call(name, tokens=LONG))
        later_s = time.monotonic() - begun_at
        cold, held = priorities
        # A fifth of a second of prefill less, and so much later at most.
        assert held - cold <= 1e6 * (AGEING * later_s - 0.15)


class OddDirectory(RecordingDirectory):
    """A directory that answers what no release of it would, as long as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.is_odd = False
        self.asked = 0

    async def epoch(self) -> Any:
        """See the contract."""
        self.asked += 1
        return await super().epoch() if not self.is_odd else [1]


async def test_an_odd_reply_of_the_directory_ends_no_replica_and_the_heartbeats_go_on() -> None:
    """Before, it ended that task of every replica at once, and Serve started all engines of the fleet again."""
    directory = OddDirectory()
    async with started_host(directory) as started:
        directory.is_odd, asked = True, directory.asked
        async with asyncio.timeout(60):
            while directory.asked < asked + 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await started.host.check_health()
        assert len(await started.answer(engine_call())) == 1
        directory.is_odd = False
        await directory.until(len(directory.published) + 3)
        await started.host.check_health()


async def test_a_fleet_with_another_key_space_ends_the_replica() -> None:
    """Its blocks are not what its fleet would take them for."""

    class Foreign(RecordingDirectory):
        async def publish(self, *args: Any, **kwargs: Any) -> None:
            await super().publish(*args, **kwargs)
            if len(self.published) > 1:
                raise KeySpaceMismatchError("another fleet took the namespace")

    directory = Foreign()
    async with started_host(directory) as started:
        await directory.until(2)
        await asyncio.sleep(0)
        with pytest.raises(KeySpaceMismatchError):
            await started.host.check_health()


async def test_events_that_cannot_be_taken_in_are_lost_ones(
    directory: RecordingDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started_host(directory) as started:
        apply, failed = Mirror.apply, asyncio.Event()

        def fail_once(mirror: Mirror, event: Any) -> Any:
            if not failed.is_set():
                failed.set()
                raise KeyError("odd")
            return apply(mirror, event)

        monkeypatch.setattr(Mirror, "apply", fail_once)
        await started.answer(engine_call(tokens=100))
        await failed.wait()
        async with asyncio.timeout(60):
            while not started.host.ingest.stats.gaps:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await started.host.check_health()
        await started.answer(engine_call("again", tokens=200))
        async with asyncio.timeout(60):
            while len(started.host.mirror) < 200 // SPACE.block_tokens:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_what_the_cache_saves_is_published_and_what_of_it_others_hold_too(directory: RecordingDirectory) -> None:
    async with started_host(directory) as started:
        await started.answer(engine_call("first"))
        await started.answer(dataclasses.replace(engine_call("second"), elsewhere_tokens=SPACE.block_tokens))
        await directory.until(len(directory.published) + 2)
    state = directory.published[-1]
    assert state.saved_s > state.saved_elsewhere_s > 0
