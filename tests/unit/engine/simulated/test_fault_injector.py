"""A simulated replica fails only as it can, and all faults end together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from support.engine_host import engine_call, simulated_parts

from aloraserve.blocks import BlocksCleared, EventBatch
from aloraserve.directory.memory import MemoryDirectory
from aloraserve.errors import DirectoryUnavailableError, InvalidRequestError
from aloraserve_services.engine.simulated.fault_injector import FaultInjector
from aloraserve_services.engine.simulated.faults import SeverableDirectory


async def test_a_replica_fails_only_as_it_can() -> None:
    engine, events = simulated_parts()
    directory = SeverableDirectory(MemoryDirectory())
    with pytest.raises(InvalidRequestError, match="fault is 'burn'; one of die"):
        FaultInjector(engine, events, directory).inject("burn")


async def test_a_replica_dies_when_asked() -> None:
    engine, events = simulated_parts()
    directory = SeverableDirectory(MemoryDirectory())
    deaths: list[str] = []
    FaultInjector(engine, events, directory, lambda: deaths.append("died")).inject("die")
    assert deaths == ["died"]


async def test_faults_begin_when_they_are_asked_for_and_all_end_together() -> None:
    engine, events = simulated_parts()
    directory = SeverableDirectory(MemoryDirectory())
    faults = FaultInjector(engine, events, directory)
    for kind in ("partition", "hang", "drop-events"):
        faults.inject(kind)
    with pytest.raises(DirectoryUnavailableError):
        await directory.ping()
    answering = asyncio.create_task(anext(engine.generate(engine_call())))
    done, _ = await asyncio.wait([answering], timeout=0.1)
    assert not done, "it hangs"
    batches = events.batches()
    arriving = asyncio.create_task(first(batches))
    events.publish([BlocksCleared()])
    done, _ = await asyncio.wait([arriving], timeout=0.05)
    assert not done, "its events are dropped"
    faults.inject("heal")
    await directory.ping()
    async with asyncio.timeout(60):
        await answering
        await arriving
    engine.shutdown()


async def first(batches: AsyncIterator[EventBatch]) -> EventBatch:
    return await anext(batches)
