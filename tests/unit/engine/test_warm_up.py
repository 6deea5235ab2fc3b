"""A replica warms up until its events arrive, and refuses to start where they do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from support.engine_host import SPACE, simulated_parts

from aloraserve.directory.mirror import Mirror
from aloraserve.engine_model.warm_up import WARM_UP_PROMPTS
from aloraserve.errors import StartError
from aloraserve_services.engine.simulated.engine import SimulatedEngine
from aloraserve_services.engine.simulated.events import SimulatedEvents
from aloraserve_services.engine.warm_up import WarmUp


@asynccontextmanager
async def mirrored() -> AsyncIterator[tuple[SimulatedEngine, SimulatedEvents, Mirror]]:
    """Run an engine and the mirror of its events."""
    engine, events = simulated_parts()
    mirror = Mirror(SPACE, lambda _: None)

    async def read() -> None:
        async for batch in events.batches():
            for event in batch.events:
                mirror.apply(event)

    reading = asyncio.create_task(read())
    try:
        yield engine, events, mirror
    finally:
        reading.cancel()
        engine.shutdown()


async def test_warming_up_prefills_some_prompts_and_leaves_nothing_behind() -> None:
    async with mirrored() as (engine, _, mirror):
        await WarmUp(engine.generate, engine.reset_prefix_cache, mirror, max_model_tokens=66).run()
        assert len(mirror) == 0
        assert len(engine.served) == len(WARM_UP_PROMPTS) + 1


async def test_an_engine_whose_events_do_not_arrive_is_refused() -> None:
    async with mirrored() as (engine, events, mirror):
        events.inject("lose-events")
        warm_up = WarmUp(engine.generate, engine.reset_prefix_cache, mirror, max_model_tokens=66, events_within_s=0.001)
        with pytest.raises(StartError, match="KV events do not arrive"):
            await warm_up.run()


async def test_an_engine_whose_cache_cannot_be_emptied_is_refused() -> None:
    async def refuse(*, preempt: bool = False) -> bool:
        return False

    async with mirrored() as (engine, _, mirror):
        warm_up = WarmUp(engine.generate, refuse, mirror, max_model_tokens=66, events_within_s=0.05)
        with pytest.raises(StartError, match=r"cannot be emptied: \d+ blocks are left"):
            await warm_up.run()
