"""Replicas whose engines hold conversations and say nothing more; run as a module, it keeps them in a directory."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import subprocess
import sys
from collections.abc import Iterator

import uvloop

from aloraserve.blocks import BlocksStored, EventBatch
from aloraserve.directory.base import ReplicaState
from aloraserve.directory.ingest import Ingest
from aloraserve.directory.mirror import Mirror
from benchmarks.synthetic_fleet import BLOCK_TOKENS, SPACE, STOP_TIMEOUT_S, open_directory, replica_name, replica_state

CONVERSATIONS = 12
"""Of each replica."""
HEARTBEAT_S = 0.15
PROCESSES = 2


def conversation(replica: int, number: int, blocks: int) -> tuple[int, ...]:
    """Return the tokens of a replica's conversation: the first block is like no other's."""
    return (replica * CONVERSATIONS + number, *([7] * (blocks * BLOCK_TOKENS - 1)))


@contextlib.contextmanager
def pushing_fleet(url: str, replicas: int, blocks: int) -> Iterator[None]:
    """Keep replicas in a directory, in processes of their own.

    Args:
        url: of the server.
        replicas: how many.
        blocks: that each of them holds.
    """
    bounds = [replicas * number // PROCESSES for number in range(PROCESSES + 1)]
    processes = [
        subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "benchmarks.pushing_fleet", url, str(low), str(high), str(blocks)],
            stdin=subprocess.DEVNULL,
        )
        for low, high in itertools.pairwise(bounds)
    ]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(STOP_TIMEOUT_S)


async def _replica(url: str, number: int, blocks: int) -> None:
    directory = open_directory(url, timeout_s=0.5)
    ingest = Ingest(directory, replica_name(number), "start", Mirror(SPACE, lambda _: None))
    length = blocks // CONVERSATIONS
    for each in range(CONVERSATIONS):
        hashes = tuple(range(each * length, (each + 1) * length))
        ingest.offer(EventBatch(each, (BlocksStored(hashes, None, conversation(number, each, length)),)))
    state: ReplicaState = replica_state(number)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(ingest.run())
        await asyncio.sleep(random.random() * HEARTBEAT_S)  # noqa: S311
        while True:
            await ingest.heartbeat(state)
            await asyncio.sleep(HEARTBEAT_S)


async def _fleet(url: str, low: int, high: int, blocks: int) -> None:
    await asyncio.gather(*(_replica(url, number, blocks) for number in range(low, high)))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_fleet(sys.argv[1], *map(int, sys.argv[2:])))
