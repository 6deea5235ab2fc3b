"""Work that starts at random moments, whether earlier work is done or not."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable


async def at_rate(
    work: Callable[[], Awaitable[None]], rate_per_s: float, seconds: float, generator: random.Random
) -> list[float]:
    """Start ``work`` as a Poisson process does; return its times in seconds, sorted.

    Args:
        work: what is timed.
        rate_per_s: starts per second.
        seconds: how long it is started.
        generator: of the starts.
    """
    times: list[float] = []

    async def timed() -> None:
        started = time.perf_counter()
        await work()
        times.append(time.perf_counter() - started)

    running: set[asyncio.Task[None]] = set()
    started = due = time.perf_counter()
    while due - started < seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(timed())
        running.add(task)
        task.add_done_callback(running.discard)
        due += generator.expovariate(rate_per_s)
    await asyncio.gather(*running)
    return sorted(times)
