"""After lost events: the engine's cache is emptied, because nobody knows any more what it holds."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

RESET_EVERY_S = 0.25
PREEMPT_AFTER_S = 2.0
"""How long a gap may wait for a moment without requests before those that run are preempted for it."""


class EmptyCache(Protocol):
    """Has an engine forget its prefix cache; returns whether it did, which without ``preempt`` needs an idle one."""

    async def __call__(self, *, preempt: bool = False) -> bool:
        """See the class."""
        ...


class GapCloser:
    """Empties the cache as soon as it can after each gap.

    Args:
        empty_cache: empties it.
        reset_every_s: how often that is tried.
        preempt_after_s: see :data:`PREEMPT_AFTER_S`.
    """

    def __init__(
        self,
        empty_cache: EmptyCache,
        *,
        reset_every_s: float = RESET_EVERY_S,
        preempt_after_s: float = PREEMPT_AFTER_S,
    ) -> None:
        self._empty_cache = empty_cache
        self._reset_every_s = reset_every_s
        self._preempt_after_s = preempt_after_s
        self._lost = asyncio.Event()

    def events_lost(self) -> None:
        """Note a gap."""
        self._lost.set()

    async def run(self) -> None:
        """Close gaps until cancelled."""
        while True:
            await self._lost.wait()
            # Before the reset: a gap during it asks for another one.
            self._lost.clear()
            preempt_at = time.monotonic() + self._preempt_after_s
            while not await self._empty_cache(preempt=time.monotonic() >= preempt_at):  # noqa: ASYNC110
                await asyncio.sleep(self._reset_every_s)
