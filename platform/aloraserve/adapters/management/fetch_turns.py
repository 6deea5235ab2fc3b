"""Turns to fetch an adapter: a few at once in a process, and owners one after the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import NamedTuple

from aloraserve.errors import OverloadedError

MAX_AT_ONCE = 4
"""Each may bring gigabytes to the disk."""
MAX_TENANT_AT_ONCE = 2
"""A tenant with slow sources leaves turns to others."""
MAX_EACH = 4
"""Under way for an owner, those that wait included."""
MAX_UNDER_WAY = 64


class _Waiting(NamedTuple):
    owner: str | None
    begun: asyncio.Future[None]


class FetchTurns:
    """See the module's docstring. The next turn is that of the owner with the fewest. For one event loop."""

    def __init__(self) -> None:
        self._under_way: Counter[str | None] = Counter()
        self._fetching: Counter[str | None] = Counter()
        self._waiting: list[_Waiting] = []

    def under_way(self, owner: str | None) -> int:
        """Return how many an owner has, those that wait included."""
        return self._under_way[owner]

    def enter(self, owner: str | None) -> None:
        """Have one more under way, until :meth:`leave`.

        Args:
            owner: a tenant, None for the platform.

        Raises:
            OverloadedError: there are too many.
        """
        if self._under_way[owner] >= MAX_EACH:
            raise OverloadedError(f"{MAX_EACH} adapters are being fetched, the most at once; retry later")
        if self._under_way.total() >= MAX_UNDER_WAY:
            raise OverloadedError("too many adapters are being fetched for others; retry later")
        self._under_way[owner] += 1

    def leave(self, owner: str | None) -> None:
        """Note the end of what :meth:`enter` began."""
        _subtract(self._under_way, owner)

    def is_free(self, owner: str | None) -> bool:
        """Whether an owner could fetch at once."""
        most = MAX_AT_ONCE if owner is None else MAX_TENANT_AT_ONCE
        return self._fetching.total() < MAX_AT_ONCE and self._fetching[owner] < most

    @contextlib.asynccontextmanager
    async def turn(self, owner: str | None) -> AsyncIterator[None]:
        """Wait for a turn, and have it for the time of the context."""
        await self._begin(owner)
        try:
            yield
        finally:
            self._end(owner)

    async def _begin(self, owner: str | None) -> None:
        if self.is_free(owner):
            self._fetching[owner] += 1
            return
        waiting = _Waiting(owner, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        try:
            await waiting.begun
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            else:
                self._end(owner)
            raise

    def _end(self, owner: str | None) -> None:
        _subtract(self._fetching, owner)
        ready = [waiting for waiting in self._waiting if self.is_free(waiting.owner) and not waiting.begun.done()]
        if ready:
            following = min(ready, key=lambda waiting: self._fetching[waiting.owner])
            self._waiting.remove(following)
            self._fetching[following.owner] += 1
            following.begun.set_result(None)


def _subtract(counts: Counter[str | None], owner: str | None) -> None:
    """Count one less, and forget whoever has none."""
    counts[owner] -= 1
    if not counts[owner]:
        del counts[owner]
