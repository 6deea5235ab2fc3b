"""Several prompts of one completion request: generated at the same time, answered together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import replace
from typing import Any, Protocol

from aloraserve.serving.engine_messages import EngineChunk


class ChunkSource(Protocol):
    """Chunks of one prompt's choices; closing it ends what generates them."""

    async def __anext__(self) -> EngineChunk: ...

    async def aclose(self) -> None:
        """End it."""


async def merged(sources: Sequence[ChunkSource], choices: int) -> AsyncGenerator[EngineChunk]:
    """Yield the chunks of all sources as they come; a prompt's choices follow those of the prompts before it.

    Args:
        sources: of each prompt.
        choices: of each prompt.
    """
    waiting = {asyncio.ensure_future(_next(source)): number for number, source in enumerate(sources)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=lambda task: waiting[task]):
                number, chunk = waiting.pop(task), task.result()
                if chunk is not None:
                    waiting[asyncio.ensure_future(_next(sources[number]))] = number
                    yield replace(chunk, index=number * choices + chunk.index)
    finally:
        await _ended(list(waiting))
        for source in sources:
            await source.aclose()


async def _next(source: ChunkSource) -> EngineChunk | None:
    with contextlib.suppress(StopAsyncIteration):
        return await anext(source)
    return None


async def _ended(tasks: Collection[asyncio.Future[Any]]) -> None:
    """Cancel what still runs, and wait for its end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
