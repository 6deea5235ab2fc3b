"""Sums of this gateway on their way to the fleet's ledger."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import structlog

from aloraserve.errors import DirectoryUnavailableError
from aloraserve_services.kept_tasks import kept

FLUSH_EVERY_S = 2.0

log = structlog.get_logger(__name__)


class FlushedLedger(Protocol):
    """What is flushed."""

    async def flush(self) -> None:
        """Write what was added."""

    async def close(self) -> None:
        """Let go of connections."""


class LedgerFlush:
    """See the module's docstring.

    Args:
        ledger: of the fleet, closed at the end of :meth:`running`.
        part: its name, for the log.
        on_failure: called for each flush that fails.
    """

    def __init__(self, ledger: FlushedLedger, part: str, on_failure: Callable[[], None]) -> None:
        self._ledger = ledger
        self._part = part
        self._on_failure = on_failure

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write what was counted now and then, and at the end."""
        task = asyncio.create_task(kept(self._keep_flushing), name=f"flush_{self._part}")
        try:
            yield
        finally:
            task.cancel()
            await self.flush()
            await self._ledger.close()

    async def flush(self) -> bool:
        """Write what was counted; return whether that was possible."""
        try:
            await self._ledger.flush()
        except DirectoryUnavailableError as error:
            self._on_failure()
            log.warning(f"{self._part}_not_written", cause=error.message)
            return False
        return True

    async def _keep_flushing(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            await self.flush()
