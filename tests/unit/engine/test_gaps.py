"""A gap is closed in an idle moment if there is one, and at last without one."""

from __future__ import annotations

import asyncio

from aloraserve_services.engine.gaps import GapCloser


class Busy:
    """A cache of an engine that always runs something: it can be emptied only if that is preempted."""

    def __init__(self) -> None:
        self.resets: list[bool] = []
        self.preempted = asyncio.Event()

    async def empty(self, *, preempt: bool = False) -> bool:
        self.resets.append(preempt)
        if preempt:
            self.preempted.set()
        return preempt


async def test_a_gap_is_closed_at_last_though_the_engine_is_never_idle() -> None:
    engine = Busy()
    closer = GapCloser(engine.empty, reset_every_s=0.01, preempt_after_s=0.05)
    closing = asyncio.create_task(closer.run())
    closer.events_lost()
    async with asyncio.timeout(60):
        await engine.preempted.wait()
    assert engine.resets[0] is False, "a moment without requests costs nobody anything"
    assert engine.resets.count(True) == 1
    closing.cancel()
