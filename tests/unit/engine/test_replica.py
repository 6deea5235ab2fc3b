"""What a replica tells before it lets an answer go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from aloraserve.blocks import KeySpace
from aloraserve.directory.memory import MemoryDirectory
from aloraserve.errors import DirectoryUnavailableError, InvalidRequestError, KeySpaceMismatchError
from aloraserve.savings.meter import SavingsMeter
from aloraserve.serving.engine_messages import EngineCall, EngineChunk
from aloraserve.wire.sampling import SamplingSettings
from aloraserve_services.engine import replica as replica_module
from aloraserve_services.engine.progress import EngineFacts, Progress
from aloraserve_services.engine.replica import EngineReplica
from aloraserve_services.engine.simulated.events import SimulatedEvents
from aloraserve_services.engine.simulated.faults import SeverableDirectory
from aloraserve_services.engine.simulated.replica import SimulatedEngineReplica

CALL = EngineCall("r", list(range(100)), SamplingSettings(max_tokens=1))


class Engine:
    """Answers with the given chunks."""

    kv_usage = 0.0
    is_dead = False

    def __init__(self, *chunks: EngineChunk) -> None:
        self._chunks = chunks

    async def generate(self, call: EngineCall) -> AsyncIterator[EngineChunk]:
        for chunk in self._chunks:
            yield chunk

    def shutdown(self) -> None:
        """There is nothing to stop."""


class Published:
    """Takes heartbeats, a moment later than they were made."""

    def __init__(self) -> None:
        self.waiting: list[int] = []
        self.settled: list[tuple[str, ...]] = []
        self.active: list[tuple[str, ...]] = []
        self.takes = True
        self._came = asyncio.Event()

    async def until(self, count: int) -> None:
        """Wait until so many heartbeats came."""
        async with asyncio.timeout(5):
            while len(self.settled) < count:
                self._came.clear()
                await self._came.wait()

    async def heartbeat(self, state: Any, *, settled: tuple[str, ...] = ()) -> bool:
        await asyncio.sleep(0.005)
        self.waiting.append(state.load.waiting)
        self.settled.append(settled)
        self.active.append(state.active_adapters)
        self._came.set()
        return self.takes


@pytest.fixture
def published() -> Published:
    return Published()


def replica(engine: Engine, published: Published, kind: type[EngineReplica] = EngineReplica) -> Any:
    """Return a replica without Serve, vLLM and Redis around it."""
    made: Any = object.__new__(kind)
    made._replica, made._label, made._resident = "a", "engine-0", ()
    made._plan = SimpleNamespace(keyspace=SimpleNamespace(block_tokens=32))
    made._mirror = SimpleNamespace(overlap=lambda keys: 0)
    made._progress, made._engine, made._ingest = Progress(EngineFacts(4)), engine, published
    made._prefilled, made._beat_done = asyncio.Event(), asyncio.Event()
    made._meter = SavingsMeter(KeySpace("model", "tokenizer", 32), {}.get, 100)
    made._events, made._gap = SimulatedEvents(), asyncio.Event()
    made._adapter_used = asyncio.Event()
    made._is_heard = True
    made._beats_begun = made._beats_done = 0
    made._tasks = []
    return made


@pytest.mark.parametrize(
    "chunks",
    [
        (EngineChunk(0, "x", 1, "stop"),),
        (EngineChunk(0, "x", 1), EngineChunk(0, "y", 1, "stop")),
    ],
    ids=["one chunk", "two chunks"],
)
async def test_the_end_of_a_prefill_is_published_before_the_answer_ends(
    chunks: tuple[EngineChunk, ...], published: Published
) -> None:
    """The conversation's next call follows at once, and must not meet this prefill in the queue."""
    one = replica(Engine(*chunks), published)
    beating = asyncio.create_task(one._beat())
    replies = one.generate(CALL)
    async for reply in replies:
        if reply.finish_reason:
            assert published.waiting[-1] == 0
            assert one._progress.load(0.0).waiting == 0
    beating.cancel()
    assert one._beats_done >= 1


async def test_an_answer_is_not_kept_for_a_directory_that_hangs(published: Published) -> None:
    class Hanging(Published):
        async def heartbeat(self, state: Any, *, settled: tuple[str, ...] = ()) -> bool:
            await asyncio.Event().wait()
            return True

    one = replica(Engine(EngineChunk(0, "x", 1, "stop")), Hanging())
    beating = asyncio.create_task(one._beat())
    async with asyncio.timeout(5):
        assert [reply.text async for reply in one.generate(CALL)] == ["x"]
    beating.cancel()


async def test_no_answer_is_kept_while_the_directory_is_gone(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_module, "ANSWER_HELD_S", 60.0)
    one = replica(Engine(EngineChunk(0, "x", 1, "stop")), published)
    published.takes = False
    beating = asyncio.create_task(one._beat())
    await published.until(1)
    beating.cancel()
    # Nobody beats any more: whoever waited for it would wait until the time is over.
    async with asyncio.timeout(20):
        async for _ in one.generate(CALL):
            pass


async def test_calls_are_settled_with_the_first_heartbeats_that_reach_the_directory(published: Published) -> None:
    """A claim counts until then, and the load that goes with it has the call from then on."""
    one = replica(Engine(EngineChunk(0, "x", 1, "stop")), published)
    published.takes = False
    beating = asyncio.create_task(one._beat())
    await published.until(1)
    async for _ in one.generate(EngineCall("r", [1] * 9, SamplingSettings(max_tokens=1), adapter="safety")):
        await published.until(len(published.settled) + 2)
    await published.until(3)
    assert published.settled[-1] == ("r",)
    published.takes = True
    await published.until(len(published.settled) + 3)
    assert published.settled[-1] == ("r",), "a claim that was late may come after the first"
    assert ("safety",) in published.active
    assert published.active[-1] == ()
    beating.cancel()


async def test_many_prefills_at_once_are_few_heartbeats(published: Published) -> None:
    one = replica(Engine(EngineChunk(0, "x", 1)), published)
    beating = asyncio.create_task(one._beat())
    began = asyncio.get_running_loop().time()
    for number in range(200):
        async for _ in one.generate(EngineCall(f"r-{number}", [1] * 9, SamplingSettings(max_tokens=1))):
            await asyncio.sleep(0)
    took_s = asyncio.get_running_loop().time() - began
    beating.cancel()
    assert len(published.settled) <= 2 + took_s / replica_module.MIN_HEARTBEAT_S


class Busy(Engine):
    """Runs something all the time, so that its cache can be emptied only if that is preempted."""

    def __init__(self) -> None:
        super().__init__()
        self.resets: list[bool] = []
        self.preempted = asyncio.Event()

    async def reset_prefix_cache(self, *, preempt: bool = False) -> bool:
        self.resets.append(preempt)
        if preempt:
            self.preempted.set()
        return preempt


async def test_a_gap_is_closed_at_last_though_the_engine_is_never_idle(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_module, "RESET_EVERY_S", 0.01)
    monkeypatch.setattr(replica_module, "PREEMPT_AFTER_S", 0.05)
    engine = Busy()
    one = replica(engine, published)
    closing = asyncio.create_task(one._close_gaps())
    one._lost_events()
    async with asyncio.timeout(5):
        await engine.preempted.wait()
    assert engine.resets[0] is False, "a moment without requests costs nobody anything"
    assert engine.resets.count(True) == 1
    closing.cancel()


@pytest.mark.parametrize("is_emptied", [True, False])
async def test_savings_follow_the_engines_cache_when_it_is_emptied(published: Published, is_emptied: bool) -> None:
    space = KeySpace("model", "tokenizer", 32)
    call = EngineCall("r", list(range(100)), SamplingSettings(max_tokens=1), keys=space.keys(range(100)))
    engine = Busy()
    engine._chunks = (EngineChunk(0, "x", 1, "length", cached_tokens=0),)
    one = replica(engine, published)
    one._is_heard = False
    first = [reply async for reply in one.generate(call)]
    assert await one._empty_cache(preempt=is_emptied) == is_emptied
    again = [reply async for reply in one.generate(call)]
    assert first[0].savings.counterfactual_cached_tokens == 0
    assert again[0].savings.counterfactual_cached_tokens == (0 if is_emptied else 96)


async def test_a_replica_of_another_key_space_is_refused_before_its_engine_starts() -> None:
    one = replica(Engine(), Published())
    one._directory = MemoryDirectory()
    await one._directory.join(KeySpace("model", "tokenizer", 32))
    one._plan = SimpleNamespace(keyspace=KeySpace("model", "tokenizer", 16))
    with pytest.raises(KeySpaceMismatchError, match="block_tokens is 16 and the fleet's is 32"):
        await one._join()


async def test_a_replica_starts_without_the_directory() -> None:
    one = replica(Engine(), Published())
    one._plan = SimpleNamespace(keyspace=KeySpace("model", "tokenizer", 16))
    one._directory = way = SeverableDirectory(MemoryDirectory())
    way.is_severed = True
    await one._join()


class Hangable(Engine):
    """Notes whether it was told to hang."""

    is_hanging = False

    def hang(self, is_hanging: bool) -> None:
        self.is_hanging = is_hanging


async def test_a_replica_fails_only_as_it_can() -> None:
    one = replica(Engine(), Published(), SimulatedEngineReplica)
    with pytest.raises(InvalidRequestError, match="fault is 'burn'; one of die"):
        await one.fail("burn")


async def test_faults_begin_when_they_are_asked_for_and_all_end_together() -> None:
    one = replica(Hangable(), Published(), SimulatedEngineReplica)
    one._directory = one._way = SeverableDirectory(MemoryDirectory())
    for kind in ("partition", "hang", "drop-events"):
        await one.fail(kind)
    with pytest.raises(DirectoryUnavailableError):
        await one._directory.ping()
    assert one._engine.is_hanging
    assert one._events._fault == "drop-events"
    await one.fail("heal")
    await one._directory.ping()
    assert not one._engine.is_hanging
    assert one._events._fault is None
