"""Which of an engine's adapters are in its slots: asked for after calls that may have changed that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aloraserve_services.engine.base import Level

RESIDENCY_S = 1.0
"""Between two questions; each costs the engine a step."""


class Residency:
    """The versions in slots as last seen.

    Args:
        ask: returns where each is, as :meth:`~aloraserve_services.engine.base.Engine.levels` does.
        every_s: see :data:`RESIDENCY_S`.

    Attributes:
        slotted: keys of the versions in slots, sorted.
    """

    def __init__(self, ask: Callable[[], Awaitable[dict[str, Level]]], *, every_s: float = RESIDENCY_S) -> None:
        self.slotted: tuple[str, ...] = ()
        self._ask = ask
        self._every_s = every_s
        self._adapter_used = asyncio.Event()

    def adapter_used(self) -> None:
        """Note that a call with an adapter ended, or that one was loaded or unloaded."""
        self._adapter_used.set()

    async def look(self) -> None:
        """Ask now."""
        self._adapter_used.clear()
        levels = await self._ask()
        self.slotted = tuple(sorted(key for key, level in levels.items() if level == "slot"))

    async def run(self) -> None:
        """Ask after calls with adapters, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._every_s)
            await self._adapter_used.wait()
