"""Whether an engine still does something while somebody waits for it: one that hangs neither ends nor says so."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

LOOKS = 8
"""How often it is looked within the time that an engine may be silent."""
MAX_LOOK_S = 1.0


class StallWatch:
    """Counts for how long an engine has neither ended a step nor answered, while it owed an answer.

    It counts its own looks: when this process or its machine stood still, the engine may have done nothing wrong. Who
    reads slowly waits for nothing; and while nobody waits, nothing is counted and nothing is forgotten.

    Args:
        stall_s: how long that may be: longer than any step, and than loading an adapter.
    """

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._look_s = min(MAX_LOOK_S, stall_s / LOOKS)
        self._silent_looks = 0
        self._waiting: set[str] = set()

    def wait(self, name: str) -> None:
        """Note that something waits for the engine."""
        self._waiting.add(name)

    def answered(self, name: str) -> None:
        """Note that it has its answer."""
        self._waiting.discard(name)
        self._silent_looks = 0

    def left(self, name: str) -> None:
        """Note that it waits no more, whatever the engine does."""
        self._waiting.discard(name)

    def stepped(self) -> None:
        """Note that the engine has ended a step."""
        self._silent_looks = 0

    @contextlib.contextmanager
    def waiting(self, name: str) -> Iterator[None]:
        """Be something that waits; leaving without an error is an answer."""
        self.wait(name)
        try:
            yield
            self.answered(name)
        finally:
            self.left(name)

    async def stalled(self) -> None:
        """Return once the engine has been silent for too long."""
        while self._silent_looks * self._look_s < self._stall_s:
            await asyncio.sleep(self._look_s)
            if self._waiting:
                self._silent_looks += 1
