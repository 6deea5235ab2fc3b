"""A replica's way in: who gets one of its places, and who learns of the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aloraserve.routing.fair_share import TenantShare
from aloraserve_services.channel.places import Places


class Admission:
    """Gives running calls their places, and remembers who found none.

    Args:
        capacity: calls at once, see :class:`~aloraserve_services.channel.places.Places`.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._places = Places(capacity)
        self._is_closed = False
        self._waiting: set[Callable[[], None]] = set()
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @property
    def running(self) -> int:
        """Calls that run."""
        return self._places.taken

    def enter(self, on_room: Callable[[], None], share: TenantShare | None = None) -> bool:
        """Take a place; return whether there was one.

        Args:
            on_room: called once when there is a place again, if there was none.
            share: of the call's tenant.
        """
        if self._is_closed or not self._places.has_room(share):
            self._waiting.add(on_room)
            return False
        self._places.take(share)
        self._is_idle.clear()
        return True

    def leave(self, share: TenantShare | None = None) -> None:
        """Give a place back, with the share that it was taken with."""
        self._places.leave(share)
        if not self._places.taken:
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
