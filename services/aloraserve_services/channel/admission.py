"""Places of a replica: how many calls it takes in at once, from all gateways."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Admission:
    """Counts running calls up to a capacity, and remembers who found it full.

    Args:
        capacity: calls at once.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._running = 0
        self._is_closed = False
        self._waiting: set[Callable[[], None]] = set()
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @property
    def running(self) -> int:
        """Calls that run."""
        return self._running

    def enter(self, on_room: Callable[[], None]) -> bool:
        """Take a place; return whether there was one.

        Args:
            on_room: called once when there is a place again, if there was none.
        """
        if self._is_closed or self._running >= self.capacity:
            self._waiting.add(on_room)
            return False
        self._running += 1
        self._is_idle.clear()
        return True

    def leave(self) -> None:
        """Give a place back."""
        self._running -= 1
        if not self._running:
            self._is_idle.set()
        if not self._is_closed:
            waiting, self._waiting = self._waiting, set()
            for on_room in waiting:
                on_room()

    def forget(self, on_room: Callable[[], None]) -> None:
        """Notify a gateway that is gone no more."""
        self._waiting.discard(on_room)

    def close(self) -> None:
        """Let nobody in any more."""
        self._is_closed = True

    async def idle(self) -> None:
        """Return once no call runs."""
        await self._is_idle.wait()
