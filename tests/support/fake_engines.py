"""Serve's handle of an engine deployment, whose replicas answer at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from aloraserve.serving.engine_messages import EngineCall, EngineChunk
from support.fake_pool import ScriptedReplies

ANSWER = (EngineChunk(0, "x", 1, "stop", cached_tokens=8),)


class Engines:
    """Serve's handle: whoever is first in rank answers."""

    def options(self, **_: Any) -> Engines:
        return self

    @asynccontextmanager
    async def choose_replica(self, rank: list[str]) -> AsyncIterator[Any]:
        yield SimpleNamespace(replica_id=rank[0])

    def dispatch(self, selection: Any, call: EngineCall) -> ScriptedReplies:
        return ScriptedReplies(ANSWER)


class WaitingReplies(ScriptedReplies):
    """A chunk, and then nothing for ever."""

    def __init__(self) -> None:
        super().__init__([EngineChunk(0, "x", 1)])
        self.waiting = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __anext__(self) -> Any:
        if not self.waiting.is_set():
            self.waiting.set()
            return await super().__anext__()
        return await asyncio.Event().wait()

    def cancel(self) -> None:
        super().cancel()
        self.cancelled.set()
