"""Replicas and holdings that exist in a directory alone; run as a module, it publishes their heartbeats."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import subprocess
import sys
import time
from collections.abc import Iterator

import uvloop

from aloraserve.blocks import KeySpace
from aloraserve.directory.base import ReplicaLoad, ReplicaState, place
from aloraserve.directory.redis import RedisDirectory

BLOCK_TOKENS = 16
HEARTBEATS_PER_S = 5
CHUNK = 256
LEASE_S = 3600.0
NAMESPACE = "bench"
SPACE = KeySpace("bench", "bench", BLOCK_TOKENS)
STOP_TIMEOUT_S = 10


def open_directory(url: str, *, timeout_s: float = 10.0) -> RedisDirectory:
    """Return a client of the benchmark's directory."""
    return RedisDirectory.from_url(url, namespace=NAMESPACE, timeout_s=timeout_s)


def replica_name(number: int) -> str:
    """Return a replica's id."""
    return f"replica-{number:03d}"


def replica_state(number: int, running: int = 0) -> ReplicaState:
    """Return what a replica publishes, with so many running requests."""
    load = ReplicaLoad(
        running=running,
        max_requests=16,
        prefill_tokens_per_s=8000.0,
        prefill_fixed_s=0.002,
        prefill_s_per_token=1.25e-4,
        prefill_s_per_square_token=1e-9,
        decode_step_s=0.01,
        kv_tokens=351_104,
        adapter_slots=8,
        adapter_load_s=0.2,
        service_s=1.0,
    )
    return ReplicaState(replica_name(number), "1.0", label=f"engine-{number}", load=load, resident=("a", "b", "c"))


def chain(seed: str, count: int, parent: bytes = b"") -> list[bytes]:
    """Return the keys of ``count`` blocks, each made of the one before it.

    Args:
        seed: equal seeds with equal parents have equal keys.
        count: of blocks.
        parent: key of the block before the first.
    """
    keys = []
    for index in range(count):
        parent = hashlib.blake2b(parent + f"{seed} {index}".encode(), digest_size=16).digest()
        keys.append(parent)
    return keys


async def store(directory: RedisDirectory, owner: int, prompt: list[bytes], start: int) -> int:
    """Store a prompt's blocks from the ``start``-th on as a replica's; return how many."""
    holdings = place(prompt)[start:]
    for first in range(0, len(holdings), CHUNK):
        await directory.apply(replica_name(owner), "1.0", stored=holdings[first : first + CHUNK])
    return len(holdings)


@contextlib.contextmanager
def heartbeats(url: str, replicas: int) -> Iterator[None]:
    """Publish every replica's state several times per second, from a process of its own."""
    arguments = [sys.executable, "-m", "benchmarks.synthetic_fleet", url, str(replicas)]
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL)  # noqa: S603
    try:
        yield
    finally:
        process.terminate()
        process.wait(STOP_TIMEOUT_S)


async def _beat(url: str, replicas: int) -> None:
    directory = open_directory(url)
    turn = 0
    while True:
        started = time.perf_counter()
        for number in range(replicas):
            await directory.publish(replica_state(number, running=turn % 3), ttl_s=LEASE_S)
            await asyncio.sleep(max(0.0, started + (number + 1) / replicas / HEARTBEATS_PER_S - time.perf_counter()))
        turn += 1


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_beat(sys.argv[1], int(sys.argv[2])))
