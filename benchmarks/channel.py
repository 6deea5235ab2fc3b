"""``make bench-channel``: what a call and a streamed chunk cost between a gateway and a replica, by transport.

Two processes: one asks, one answers as an engine does, a chunk of each running stream per step. The figures are CPU
time, summed over both and all their threads, and wall time; transports take turns, and medians are shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import psutil
import typer
import uvloop

from aloraserve_services.cli.console import Steps, out
from benchmarks.channel_transports import TRANSPORTS, Call, Chunk, Transport
from benchmarks.harness.command import run_command

STEP_S = 0.005
"""Between two steps of the answering side."""
PROMPT = Call(0, 1, b"\1\2\3\4" * 500, b"k" * 16 * 15)
"""500 token ids and their block keys."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one measurement came to.

    Args:
        cpu_ms: of both processes, per call or chunk.
        wall_ms: likewise; of a chunk without the steps' pauses it means nothing and is 0.
    """

    cpu_ms: float
    wall_ms: float = 0.0


class Steps5ms:
    """Answers calls a chunk per step, all running ones in one step."""

    def __init__(self) -> None:
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def chunks(self, call: Call) -> AsyncIterator[Chunk]:
        """Yield as many chunks as are asked for; a single one comes at once."""
        if call.chunks == 1:
            yield Chunk(call.id, 0, " word", 1, "length")
            return
        self._task = self._task or asyncio.create_task(self._run())
        for number in range(call.chunks):
            await self._due.wait()
            yield Chunk(call.id, 0, " word", 1, "length" if number == call.chunks - 1 else None)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(STEP_S)
            due, self._due = self._due, asyncio.Event()
            due.set()


def answer(name: str, address: str) -> None:
    """Be the answering process, until killed."""
    uvloop.run(TRANSPORTS[name].serve(address, Steps5ms().chunks))


@contextlib.contextmanager
def answering(name: str, address: str) -> Any:
    """Run the answering process."""
    child = subprocess.Popen([sys.executable, "-m", "benchmarks.channel", "--answer", name, "--address", address])  # noqa: S603
    try:
        yield psutil.Process(child.pid)
    finally:
        child.kill()
        child.wait()


def cpu_s(process: psutil.Process) -> float:
    """Return the CPU time that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


async def spent(work: Callable[[], Coroutine[Any, Any, None]], other: psutil.Process, count: int) -> Cost:
    """Return what ``count`` pieces of work cost each."""
    before_s, started = cpu_s(other) + time.process_time(), time.perf_counter()
    await work()
    wall_s = time.perf_counter() - started
    return Cost((cpu_s(other) + time.process_time() - before_s) / count * 1000, wall_s / count * 1000)


async def measure(transport: Transport, address: str, other: psutil.Process, calls: int, chunks: int) -> list[Cost]:
    """Return the cost of a call, and of a chunk with 1, 16 and 64 streams."""
    client = await transport.connect(address)

    async def one_by_one() -> None:
        for _ in range(calls):
            async for _ in client.call(PROMPT):
                pass

    async def stream(count: int) -> None:
        async for _ in client.call(msgspec.structs.replace(PROMPT, chunks=count)):
            pass

    await stream(20)
    found = [await spent(one_by_one, other, calls)]
    for streams in (1, 16, 64):
        each = min(400, chunks // streams)

        async def streaming(streams: int = streams, each: int = each) -> None:
            await asyncio.gather(*(stream(each) for _ in range(streams)))

        found.append(Cost((await spent(streaming, other, streams * each)).cpu_ms))
    await client.close()
    return found


def main(
    calls: Annotated[int, typer.Option(help="Calls of one chunk in each round.")] = 1500,
    chunks: Annotated[int, typer.Option(help="Chunks of all streams in each round.")] = 8000,
    rounds: Annotated[int, typer.Option(help="Turns of each transport.")] = 3,
    only: Annotated[str, typer.Option(help="Transports, with semicolons between; default: all.")] = "",
    answer_with: Annotated[str, typer.Option("--answer", hidden=True)] = "",
    address: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Compare what can carry calls and tokens between a gateway and a replica."""
    if answer_with:
        answer(answer_with, address)
        return
    names = only.split(";") if only else list(TRANSPORTS)
    found: dict[str, list[list[Cost]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        steps = Steps()
        for turn in range(rounds):
            for name in names:
                steps(f"round {turn + 1} of {rounds}: {name}")
                place = TRANSPORTS[name].address(Path(folder) / f"{names.index(name)}-{turn}")
                with answering(name, place) as other:
                    found[name].append(uvloop.run(measure(TRANSPORTS[name], place, other, calls, chunks)))
    out.print(f"{'transport':<22}{'call CPU':>10}{'wall':>8}   chunk CPU, 1, 16, 64 streams (ms)")
    for name, rows in found.items():
        call, *streams = [statistics.median(row[column].cpu_ms for row in rows) for column in range(4)]
        wall = statistics.median(row[0].wall_ms for row in rows)
        out.print(f"{name:<22}{call:>10.3f}{wall:>8.3f}   " + "".join(f"{cost:>9.4f}" for cost in streams))


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    run_command(main)
