"""Failure on demand, for tests of the platform: the faults of a simulated replica."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, cast, get_args

from aloraserve.directory.base import Directory
from aloraserve.directory.wrapper import AnswerT, DirectoryWrapper
from aloraserve.errors import DirectoryUnavailableError

EventFault = Literal["hang-events", "drop-events", "lose-events", "duplicate-events", "reorder-events"]
"""Batches held back; not delivered, but replayed; gone for good; delivered twice; delivered in pairs, swapped."""
Fault = Literal["die", "hang", "poison", "partition", "heal"] | EventFault
"""End the process without a goodbye; generate nothing any more; let a prompt that begins with :data:`POISON` end the
engine; lose the way to the directory; end all faults."""
POISON = 666
EVENT_FAULTS: tuple[EventFault, ...] = get_args(EventFault)
FAULTS: tuple[str, ...] = ("die", "hang", "poison", "partition", "heal", *EVENT_FAULTS)


def check_fault(kind: str) -> Fault:
    """Return ``kind``.

    Raises:
        ValueError: there is no such fault; names all that there are.
    """
    if kind not in FAULTS:
        raise ValueError(f"fault is {kind[:80]!r}; one of {', '.join(FAULTS)} is accepted")
    return cast(Fault, kind)


class SeverableDirectory(DirectoryWrapper):
    """A directory that can be put out of reach: every call then fails as it does when the server is gone.

    Args:
        directory: behind it.
    """

    def __init__(self, directory: Directory) -> None:
        super().__init__(directory)
        self.is_severed = False

    async def _through(self, name: str, call: Callable[[], Awaitable[AnswerT]]) -> AnswerT:
        if self.is_severed:
            raise DirectoryUnavailableError("the way to the directory is cut, as a test asked")
        return await call()
