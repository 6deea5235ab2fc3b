"""The list of processes that Prometheus scrapes."""

from __future__ import annotations

import asyncio

from aloraserve.directory.base import Process
from aloraserve.directory.memory import MemoryDirectory
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.telemetry.targets import keep_announced, scrape_targets

ENGINE = Process("engine", "engine-0", "10.0.0.1:9000")


class Late(MemoryDirectory):
    """Is there from the third call on."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.announced_one = asyncio.Event()

    async def announce(self, process: Process, **options: float) -> None:
        self.calls += 1
        if self.calls < 3:
            raise DirectoryUnavailableError("gone")
        await super().announce(process, **options)
        self.announced_one.set()


def test_each_address_is_a_target_once() -> None:
    gateway = Process("gateway", "gateway-0", "10.0.0.1:9001")
    assert scrape_targets([gateway, ENGINE, gateway]) == [
        {"targets": ["10.0.0.1:9000"], "labels": {"role": "engine", "process": "engine-0"}},
        {"targets": ["10.0.0.1:9001"], "labels": {"role": "gateway", "process": "gateway-0"}},
    ]


async def test_a_process_is_listed_as_soon_as_the_directory_is_there() -> None:
    directory = Late()
    announcing = asyncio.create_task(keep_announced(directory, ENGINE, every_s=0.001))
    async with asyncio.timeout(5):
        await directory.announced_one.wait()
    assert await directory.announced() == [ENGINE]
    announcing.cancel()
