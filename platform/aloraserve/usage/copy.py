"""Tenants' use in files, a day in each: what a server without a disk loses is put back from them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import structlog

from aloraserve.records.file import replace_file
from aloraserve.usage.base import DAY_S, KEPT_DAYS, UsageFigures
from aloraserve.usage.redis import UsageLedger

MAX_FILE_BYTES = 16 << 20

log = structlog.get_logger(__name__)
_DECODER = msgspec.json.Decoder(dict[str, UsageFigures])


class UsageCopy:
    """Follows a ledger whose server begins empty whenever it is started. For one event loop.

    Args:
        folder: of the files, which nobody else writes; made if need be.
        ledger: of the fleet; closed by :meth:`close`.
        clock: seconds since 1970.
    """

    def __init__(self, folder: Path, ledger: UsageLedger, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._ledger = ledger
        self._clock = clock
        self._written: dict[int, Mapping[str, UsageFigures]] = {}
        self._missing: list[int] = []
        self.emptied()

    def emptied(self) -> None:
        """Note that the server has been started: what is in the files is to be put back."""
        self._missing = sorted(self._days())

    async def keep(self) -> None:
        """Put back what is to be put back, then write what changed since.

        Raises:
            DirectoryUnavailableError: the server does not answer; the next call goes on.
            OSError: a file cannot be written; the next call tries again.
        """
        await self._put_back()
        today = int(self._clock() // DAY_S)
        for number, figures in (await self._ledger.days((today - 1, today))).items():
            if figures and figures != self._written.get(number):
                replace_file(self._path(number), msgspec.json.encode(figures))
                self._written[number] = figures
        for number in self._days():
            if number <= today - KEPT_DAYS:
                self._path(number).unlink(missing_ok=True)
        self._written = {number: figures for number, figures in self._written.items() if number >= today - 1}

    async def close(self) -> None:
        """Let go of connections."""
        await self._ledger.close()

    async def _put_back(self) -> None:
        """Add what is in the files to what was counted since the start; a day is counted once, also if this fails."""
        while self._missing:
            number = self._missing.pop(0)
            for name, figures in self._read(number).items():
                self._ledger.count(name, figures, number * DAY_S)
            await self._ledger.flush()
        await self._ledger.flush()

    def _read(self, number: int) -> Mapping[str, UsageFigures]:
        path = self._path(number)
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ValueError("too long")
            return _DECODER.decode(path.read_bytes())
        except (OSError, ValueError) as error:
            log.warning("usage_copy_unreadable", day=number, cause=type(error).__name__)
            return {}

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.json"

    def _days(self) -> list[int]:
        return [int(path.stem) for path in self._folder.glob("*.json") if path.stem.isdecimal()]
