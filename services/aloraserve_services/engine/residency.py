"""Which adapters an engine has loaded: asked for after calls that may have changed that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

RESIDENCY_S = 1.0
"""Between two questions; each costs the engine a step."""


class Residency:
    """The loaded adapters as last seen.

    Args:
        ask: returns their names, as :meth:`~aloraserve_services.engine.base.Engine.resident` does.
        every_s: see :data:`RESIDENCY_S`.

    Attributes:
        names: of the loaded adapters.
    """

    def __init__(self, ask: Callable[[], Awaitable[tuple[str, ...]]], *, every_s: float = RESIDENCY_S) -> None:
        self.names: tuple[str, ...] = ()
        self._ask = ask
        self._every_s = every_s
        self._adapter_used = asyncio.Event()

    def adapter_used(self) -> None:
        """Note that a call with an adapter ended, or that one was loaded or unloaded."""
        self._adapter_used.set()

    async def look(self) -> None:
        """Ask now."""
        self._adapter_used.clear()
        self.names = await self._ask()

    async def run(self) -> None:
        """Ask after calls with adapters, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._every_s)
            await self._adapter_used.wait()
