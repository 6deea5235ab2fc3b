"""Turns of calls on one running platform, with its CPU time, and with scrapes where it observes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
import psutil

from aloraserve.errors import StartError
from aloraserve_services.local.run_file import Running
from benchmarks.harness.client import AsyncStreamingClient

CLIENTS = 6
ANSWER_TOKENS = 32
SCRAPE_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a platform.

    Args:
        calls: that were made.
        seconds: that they took.
        cpu_s: the platform's CPU time that they took.
    """

    calls: int
    seconds: float
    cpu_s: float


class PlatformTurns:
    """Plays turns on one platform.

    Args:
        platform: that runs.
        replicas: its engines.
        is_scraped: whether its metrics are fetched in each turn.

    Raises:
        StartError: a part of the platform is not there.
    """

    def __init__(self, platform: Running, *, replicas: int, is_scraped: bool) -> None:
        self._client = AsyncStreamingClient(platform.url)
        self._processes = _processes(platform.pid, replicas)
        self._model = httpx.get(f"{platform.url}/v1/models", trust_env=False).json()["data"][0]["id"]
        self._targets = _targets(platform.url) if is_scraped else []
        self._turn = 0
        self._unscraped_s = 0.0

    async def turn(self, prompts: Sequence[list[int]], seconds: float) -> Turn:
        """Call for ``seconds``."""
        self._turn += 1
        cpu_s, started = self._cpu_s(), time.perf_counter()
        ends = started + seconds
        scrape = asyncio.create_task(self._scrape())
        made = await asyncio.gather(*(self._call_until(ends, number, prompts) for number in range(CLIENTS)))
        await scrape
        took = time.perf_counter() - started
        self._unscraped_s += took
        return Turn(sum(made), took, self._cpu_s() - cpu_s)

    def _cpu_s(self) -> float:
        return float(sum(sum(process.cpu_times()[:2]) for process in self._processes))

    async def _call_until(self, ends: float, number: int, prompts: Sequence[list[int]]) -> int:
        calls = 0
        while time.perf_counter() < ends:
            name = f"{self._turn}-{number}-{calls}"
            prompt = prompts[(number * 7 + calls) % len(prompts)]
            await self._client.complete(name, self._model, prompt, ANSWER_TOKENS)
            calls += 1
        return calls

    async def _scrape(self) -> None:
        if self._unscraped_s < SCRAPE_EVERY_S:
            return
        self._unscraped_s = 0.0
        for target in self._targets:
            await _fetch(target)


def _processes(pid: int, replicas: int) -> list[psutil.Process]:
    """Return the gateway and the engines of a platform."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "ServeReplica:" in " ".join(process.cmdline()):
                found.append(process)
    if len(found) < replicas + 1:
        raise StartError(f"process {pid} has {len(found)} of a gateway and {replicas} engines")
    return found


async def _fetch(target: str) -> None:
    """Scrape a process at next to no cost for this one, whose time the calls need."""
    host, _, port = target.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /metrics HTTP/1.0\r\nhost: {target}\r\n\r\n".encode())
    if b" 200 " not in await reader.readline():
        raise StartError(f"{target} does not show its metrics")
    await reader.read()
    writer.close()


def _targets(url: str) -> list[str]:
    found = httpx.get(f"{url}/v1/metrics/targets", trust_env=False).raise_for_status().json()
    return [address for group in found for address in group["targets"]]
