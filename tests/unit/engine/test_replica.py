"""What a replica tells before it lets an answer go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from aloraserve.wire.sampling import SamplingSettings
from aloraserve_services.engine.calls import EngineCall, EngineChunk
from aloraserve_services.engine.progress import Progress
from aloraserve_services.engine.replica import EngineReplica

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

    async def heartbeat(self, state: Any) -> bool:
        await asyncio.sleep(0.005)
        self.waiting.append(state.load.waiting)
        return True


@pytest.fixture
def published() -> Published:
    return Published()


def replica(engine: Engine, published: Published) -> Any:
    """Return a replica without Serve, vLLM and Redis around it."""
    made: Any = object.__new__(EngineReplica)
    made._replica, made._label, made._resident = "a", "engine-0", ()
    made._plan = SimpleNamespace(keyspace=SimpleNamespace(block_tokens=32))
    made._mirror = SimpleNamespace(overlap=lambda keys: 0)
    made._progress, made._engine, made._ingest = Progress(4), engine, published
    made._load_changed, made._prefilled, made._beat_done = asyncio.Event(), asyncio.Event(), asyncio.Event()
    made._adapter_used = asyncio.Event()
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
        async def heartbeat(self, state: Any) -> bool:
            await asyncio.Event().wait()
            return True

    one = replica(Engine(EngineChunk(0, "x", 1, "stop")), Hanging())
    beating = asyncio.create_task(one._beat())
    async with asyncio.timeout(5):
        assert [reply.text async for reply in one.generate(CALL)] == ["x"]
    beating.cancel()
