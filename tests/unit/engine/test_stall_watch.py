"""An engine that hangs is found out and ended; one that is busy, idle or waited for by slow readers is not."""

from __future__ import annotations

import asyncio
import time

import pytest
from support.engine_host import PLAIN, RecordingDirectory, engine_call, started_host

from aloraserve.serving.engine_messages import DEAD_ENGINE_ERRORS, EngineChunk
from aloraserve_services.engine.base import EngineEndedError
from aloraserve_services.engine.stall_watch import StallWatch

STALL_S = 0.3


@pytest.fixture
async def directory() -> RecordingDirectory:
    return RecordingDirectory()


def test_gateways_know_the_error_of_a_killed_engine_as_a_loss() -> None:
    assert EngineEndedError.__name__ in DEAD_ENGINE_ERRORS


async def test_a_hung_engine_s_calls_end_its_lease_goes_and_its_replica_is_unhealthy(
    directory: RecordingDirectory,
) -> None:
    stalls: list[bool] = []
    async with started_host(directory, stall_s=STALL_S) as started:
        started.host.observe(started.host._begin_observing, lambda: stalls.append(started.host.is_stalled))
        replies = started.host.generate(engine_call(max_tokens=9000))
        assert isinstance(await anext(replies), EngineChunk)
        waiting = asyncio.create_task(started.answer(engine_call("waits")))
        await asyncio.sleep(0)
        started.engine.hang(True)
        await started.host.check_health()
        async with asyncio.timeout(60):
            with pytest.raises(EngineEndedError):
                [reply async for reply in replies]
            with pytest.raises(EngineEndedError):
                await waiting
            await directory.retired.wait()
        assert await directory.states() == []
        assert stalls == [True]
        with pytest.raises(EngineEndedError):
            await started.host.check_health()
        with pytest.raises(EngineEndedError):
            await started.answer(engine_call("later"))


async def test_an_engine_that_hangs_while_it_loads_an_adapter_is_found_out(
    directory: RecordingDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started_host(directory, stall_s=STALL_S) as started:
        with started.adapters._waiting("load"):
            async with asyncio.timeout(60):
                await directory.retired.wait()


async def test_an_engine_without_work_does_nothing_for_as_long_as_it_likes(directory: RecordingDirectory) -> None:
    async with started_host(directory, PLAIN, stall_s=STALL_S) as started:
        await started.answer(engine_call(adapter=PLAIN))
        await asyncio.sleep(2 * STALL_S)
        await started.host.check_health()


async def test_a_slow_reader_waits_for_nothing(directory: RecordingDirectory) -> None:
    """The engine has long ended; what it said has not been read."""
    async with started_host(directory, stall_s=STALL_S) as started:
        replies = started.host.generate(engine_call(max_tokens=20))
        await anext(replies)
        await asyncio.sleep(2 * STALL_S)
        await started.host.check_health()
        assert [reply async for reply in replies]


async def test_steps_are_progress_though_one_call_gets_nothing(directory: RecordingDirectory) -> None:
    async with started_host(directory, stall_s=STALL_S) as started:
        watch = started.host._watch
        with watch.waiting("starved"):
            until = time.monotonic() + 2 * STALL_S
            while time.monotonic() < until:
                await started.answer(engine_call(f"r{time.monotonic()}"))
        await started.host.check_health()


async def test_a_process_that_stood_still_blames_nobody() -> None:
    watch = StallWatch(STALL_S)
    found = asyncio.create_task(watch.stalled())
    watch.wait("call")
    await asyncio.sleep(0)
    # As when the process or the machine is stopped; the engine's answer waits to be read.
    time.sleep(2 * STALL_S)  # noqa: ASYNC251
    await asyncio.sleep(0)
    watch.answered("call")
    await asyncio.sleep(0)
    assert not found.done()
    found.cancel()


async def test_calls_that_give_up_do_not_hide_a_hung_engine() -> None:
    watch = StallWatch(STALL_S)
    found = asyncio.create_task(watch.stalled())
    async with asyncio.timeout(60):
        while not found.done():
            watch.wait("call")
            await asyncio.sleep(STALL_S / 4)
            watch.left("call")
            await asyncio.sleep(STALL_S / 4)
