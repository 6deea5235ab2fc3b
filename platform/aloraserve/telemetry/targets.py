"""Who has metrics: processes list themselves in the directory, and Prometheus asks for the list."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any

from aloraserve.directory.base import ANNOUNCED_TTL_S, Directory, Process
from aloraserve.errors import DirectoryUnavailableError

ANNOUNCE_EVERY_S = ANNOUNCED_TTL_S / 6


async def keep_announced(directory: Directory, process: Process, every_s: float = ANNOUNCE_EVERY_S) -> None:
    """Keep a process in the directory's list until cancelled; a directory that is gone is asked again."""
    while True:
        with contextlib.suppress(DirectoryUnavailableError):
            await directory.announce(process)
        await asyncio.sleep(every_s)


def scrape_targets(processes: Iterable[Process]) -> list[dict[str, Any]]:
    """Return processes as Prometheus' ``http_sd_configs`` reads them, each address once."""
    by_address = {one.address: one for one in processes}
    return [
        {"targets": [one.address], "labels": {"role": one.role, "process": one.name}}
        for one in sorted(by_address.values())
    ]
