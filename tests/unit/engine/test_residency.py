"""Which adapters are in slots is asked for after calls that may have changed that, and not otherwise."""

from __future__ import annotations

import asyncio

from aloraserve_services.engine.base import Level
from aloraserve_services.engine.residency import Residency


class Loaded:
    """Answers with one adapter more each time."""

    def __init__(self) -> None:
        self.questions = 0
        self.asked = asyncio.Event()

    async def ask(self) -> dict[str, Level]:
        self.questions += 1
        self.asked.set()
        return {"elsewhere": "host"} | {f"adapter-{number}": "slot" for number in range(self.questions)}


async def test_adapters_are_asked_for_after_one_was_used() -> None:
    loaded = Loaded()
    residency = Residency(loaded.ask, every_s=0.001)
    running = asyncio.create_task(residency.run())
    async with asyncio.timeout(60):
        await loaded.asked.wait()
        await asyncio.sleep(0.02)
        assert (loaded.questions, residency.slotted) == (1, ("adapter-0",)), "no call, no question"
        loaded.asked.clear()
        residency.adapter_used()
        await loaded.asked.wait()
        await asyncio.sleep(0)
    assert residency.slotted == ("adapter-0", "adapter-1")
    running.cancel()
