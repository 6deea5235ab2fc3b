"""A replica as pools reach it: a real host on a simulated engine, which also does what a call's id asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

from aloraserve.serving.engine_messages import (
    EngineCall,
    EngineChunk,
    EngineRefusal,
    EngineReply,
    EngineUnavailable,
    TokenLogprob,
    TokenLogprobs,
)
from support.engine_host import RecordingDirectory, engine_call, started_host

CAPACITY = 2
ALTERNATIVES = (TokenLogprob("y", -2.5), TokenLogprob("ü", -3.0))
MARKED = EngineChunk(1, " né", 2, "stop", 7, (TokenLogprobs(TokenLogprob(" né", -0.1), ALTERNATIVES),), 0.25)
"""A chunk that says all that one can say of an answer."""


class EngineDeadError(Exception):
    """Stands for vLLM's error of this name."""


class PoolReplica:
    """Answers calls, and leaves a file for each while it runs.

    What a call's id begins with says what becomes of it: "hold" (a chunk, then nothing), "flood" (chunks without an
    end), "marked", "refuse", "unavailable", "dead", "fail"; others are answered by the engine.

    Args:
        name: of the replica.
        folder: where the files are.

    Attributes:
        flooded: chunks of floods so far.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.flooded = 0
        self._folder = folder
        self._parts = AsyncExitStack()
        self._host: Any = None

    async def start(self) -> None:
        """Start the host."""
        self._host = (await self._parts.enter_async_context(started_host(RecordingDirectory()))).host

    async def stop(self) -> None:
        """Stop it."""
        await self._parts.aclose()

    async def generate(self, call: EngineCall) -> AsyncGenerator[EngineReply]:
        """Yield the replies."""
        mark = self._folder / f"{self.name}:{call.request_id}"
        mark.touch()
        try:
            async with aclosing(self._replies(call)) as replies:
                async for reply in replies:
                    yield reply
        finally:
            mark.unlink()

    async def _replies(self, call: EngineCall) -> AsyncGenerator[EngineReply]:
        what = call.request_id.split("-")[0]
        if what == "dead":
            raise EngineDeadError("dead")
        if what == "fail":
            raise KeyError("x")
        if what == "refuse":
            yield EngineRefusal("too long", "prompt")
        elif what == "unavailable":
            yield EngineUnavailable("no such version")
        elif what == "marked":
            yield MARKED
        elif what == "hold":
            yield EngineChunk(0, "x", 1)
            await asyncio.Event().wait()
        elif what == "flood":
            while True:
                self.flooded += 1
                yield EngineChunk(0, "x", 1)
                await asyncio.sleep(0)
        else:
            async with aclosing(self._host.generate(call)) as replies:
                async for reply in replies:
                    yield reply


def running(folder: Path) -> set[tuple[str, str]]:
    """Return replica and id of the calls that run."""
    return {(file.name.partition(":")[0], file.name.partition(":")[2]) for file in folder.iterdir()}


def call_of(name: str, max_tokens: int = 3) -> EngineCall:
    """Return a call."""
    return engine_call(name, 100, max_tokens)
