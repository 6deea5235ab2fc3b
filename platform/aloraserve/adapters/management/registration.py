"""A registration under way: how far it is, and what came of it."""

from __future__ import annotations

import asyncio
import time
from enum import StrEnum
from typing import Any

from aloraserve.adapters.catalog.entry import AdapterEntry
from aloraserve.adapters.checks import CheckReport
from aloraserve.adapters.management.base import RegistrationRequest
from aloraserve.errors import AloraserveError


class RegistrationStage(StrEnum):
    """What a registration is doing."""

    WAITING = "waiting"
    FETCHING = "fetching"
    CHECKING = "checking"
    STORING = "storing"
    CATALOGUING = "cataloguing"
    DONE = "done"
    FAILED = "failed"

    @property
    def is_end(self) -> bool:
        """Whether nothing more happens."""
        return self in (RegistrationStage.DONE, RegistrationStage.FAILED)


class Registration:
    """See the module's docstring. For one event loop.

    Args:
        number: its id in this process.
        request: what was asked for.
        source: its reference without secrets.

    Attributes:
        stage: what it is doing.
        source: likewise.
        bytes_done: bytes that are there.
        bytes_total: bytes in all, 0 while that is not known.
        started_at: in seconds since 1970.
        ended_at: likewise, None while it runs.
        entry: in the catalog, None unless it is done.
        report: of the check, None before it.
        error: why it failed, None unless it did.
    """

    def __init__(self, number: str, request: RegistrationRequest, source: str) -> None:
        self.id = number
        self.request = request
        self.stage = RegistrationStage.FETCHING
        self.source = source
        self.bytes_done = 0
        self.bytes_total = 0
        self.started_at = time.time()
        self.ended_at: float | None = None
        self.entry: AdapterEntry | None = None
        self.report: CheckReport | None = None
        self.error: AloraserveError | None = None
        self._task: asyncio.Task[None] | None = None

    def progress(self, done: int, total: int) -> None:
        """Note how far a fetch is; from any thread."""
        self.bytes_done, self.bytes_total = done, total

    async def finished(self) -> AdapterEntry:
        """Wait for the end and return what is in the catalog; whoever waits may leave, the registration goes on.

        Raises:
            AloraserveError: why it failed.
        """
        if self._task is not None:
            await asyncio.wait({self._task})
        if self.error is not None:
            raise self.error
        assert self.entry is not None, "it ended without an error"
        return self.entry

    async def cancel(self) -> None:
        """End it; nothing of it stays."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def run_as(self, task: asyncio.Task[None]) -> None:
        """Note the task that does it."""
        self._task = task

    def ended(self, *, entry: AdapterEntry | None = None, error: AloraserveError | None = None) -> None:
        """Note what came of it."""
        self.stage = RegistrationStage.FAILED if entry is None else RegistrationStage.DONE
        self.entry, self.error, self.ended_at = entry, error, time.time()

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON types, without the report."""
        return {
            "id": self.id,
            "name": self.request.name,
            "source": self.source,
            "stage": self.stage.value,
            "bytes_done": self.bytes_done,
            "bytes_total": self.bytes_total,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "version": None if self.entry is None else self.entry.version,
            "error": None if self.error is None else self.error.message,
        }
