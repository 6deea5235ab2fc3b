"""``make bench-routing``: cost of the directory and of a decision on a real server.

Measured are block keys, lookups and placements at a rate, ingest, and memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import typer
import uvloop

from aloraserve.blocks import BlocksStored, EventBatch
from aloraserve.directory.base import Holding, place
from aloraserve.directory.ingest import Ingest
from aloraserve.directory.mirror import Mirror
from aloraserve.directory.redis import RedisDirectory
from aloraserve.routing.base import Call
from aloraserve.routing.placement import ClaimOutcome
from aloraserve.routing.policies import make_policy
from aloraserve.routing.router import Router
from aloraserve_services.cli.console import Steps, clearly, out
from aloraserve_services.cli.options import JsonFile
from benchmarks.harness.arrivals import at_rate
from benchmarks.harness.command import run_command
from benchmarks.harness.redis_server import bench_server, server_info
from benchmarks.harness.report import Figure, figures_json, show_figures, write_json
from benchmarks.harness.stats import percentile
from benchmarks.synthetic_fleet import (
    BLOCK_TOKENS,
    LEASE_S,
    SPACE,
    chain,
    heartbeats,
    open_directory,
    replica_name,
    replica_state,
    store,
)

SHARED_BLOCKS = 128
PROMPT_BLOCKS = 512
LONG_BLOCKS = 8192
DOCUMENTS = 64
NEW_FROM = 480
"""The first block of a placed call that nobody has."""
SMALL_FLEET = 64


@clearly
def bench_routing(
    replicas: Annotated[int, typer.Option(min=1, max=512, help="Replicas in the directory.")] = 64,
    blocks: Annotated[int, typer.Option(min=10_000, max=20_000_000, help="Distinct blocks in it.")] = 1_000_000,
    rate: Annotated[float, typer.Option(min=1, max=5000, help="Lookups per second.")] = 200.0,
    seconds: Annotated[float, typer.Option(min=1, max=600, help="How long lookups are measured.")] = 20.0,
    open_claims: Annotated[int, typer.Option(min=0, max=64, help="Open claims of each replica.")] = 4,
    seed: Annotated[int, typer.Option(help="Seed of the conversations and of what is looked up.")] = 0,
    redis_url: Annotated[str | None, typer.Option(help="Empty Redis or Valkey; default: one of its own.")] = None,
    json: JsonFile = None,
) -> None:
    """Measure block keys, lookups, claims, ingest and memory of the directory on a real server (needs no engine)."""
    with contextlib.nullcontext(redis_url) if redis_url else bench_server() as url:
        bench = DirectoryBench(str(url), replicas, blocks, rate, seconds, open_claims, seed, Steps())
        # As a gateway: Ray runs its workers on uvloop.
        figures = uvloop.run(bench.run())
    show_figures(out, "directory and decision", figures)
    write_json(json, figures_json(figures))


@dataclass(slots=True)
class DirectoryBench:
    """Runs all measurements on one server.

    Args:
        url: of an empty server.
        replicas: in the fleet.
        blocks: distinct blocks in the directory.
        rate_per_s: lookups per second, at exponentially distributed intervals.
        seconds: how long lookups are measured for each length, and placements.
        open_claims: of each replica, made by another gateway.
        seed: of the conversations and of what is looked up when.
        progress: called with what happens.
    """

    url: str
    replicas: int
    blocks: int
    rate_per_s: float
    seconds: float
    open_claims: int
    seed: int
    progress: Callable[[str], None]
    figures: list[Figure] = field(default_factory=list)
    _prompts: list[list[bytes]] = field(default_factory=list)
    _owners: list[int] = field(default_factory=list)
    _long: list[bytes] = field(default_factory=list)

    async def run(self) -> list[Figure]:
        """Return the figures."""
        self._keys()
        directory = open_directory(self.url)
        try:
            for number in range(self.replicas):
                await directory.publish(replica_state(number), ttl_s=LEASE_S)
            await self._fill(directory)
            await self._ingest(directory)
            # The bench's own million keys are not part of a gateway's heap.
            gc.collect()
            gc.freeze()
            with heartbeats(self.url, self.replicas):
                await self._least(directory)
                await self._lookups(directory, f"{self.replicas} replicas, 8k tokens", self._prompts, 0.8, 2.5)
                await self._lookups(directory, "128k tokens", [self._long], None, 8.0)
                await self._placements(directory)
            await self._turns(directory)
        finally:
            await directory.close()
        return self.figures

    def _generator(self) -> random.Random:
        return random.Random(self.seed)  # noqa: S311

    def _keys(self) -> None:
        generator = self._generator()
        tokens = [generator.randrange(50_000) for _ in range(PROMPT_BLOCKS * BLOCK_TOKENS)]
        times = []
        for _ in range(50):
            started = time.perf_counter()
            SPACE.keys(tokens)
            times.append(time.perf_counter() - started)
        self.figures.append(Figure("block keys of 8,192 tokens", statistics.median(times) * 1000, "ms", 1.0))

    async def _fill(self, directory: RedisDirectory) -> None:
        """Store conversations that share documents, each on one replica, until there are enough blocks."""
        before = await _used_memory(self.url)
        started = time.perf_counter()
        holdings = await self._store_conversations(directory)
        rate = holdings / (time.perf_counter() - started)
        after = await _used_memory(self.url)
        blocks = self._stored_blocks + DOCUMENTS * SHARED_BLOCKS
        self.figures.append(Figure("applies, blocks per second", rate, "blocks/s", 50_000, at_least=True))
        self.figures.append(Figure(f"memory, {blocks:,} blocks", (after - before) / blocks, "bytes/block", 120))
        second = 0
        for prompt, owner in list(zip(self._prompts, self._owners, strict=True))[: len(self._owners) // 4]:
            second += await store(directory, (owner + 1) % self.replicas, prompt, SHARED_BLOCKS)
        further = (await _used_memory(self.url) - after) / max(second, 1)
        self.figures.append(Figure("memory, each further holder", further, "bytes/block", 24))
        self._long = chain("long", LONG_BLOCKS)
        for owner in range(min(3, self.replicas)):
            await store(directory, owner, self._long, 0)

    @property
    def _stored_blocks(self) -> int:
        """Blocks of the conversations that are stored, without those of the documents."""
        return len(self._owners) * (PROMPT_BLOCKS - SHARED_BLOCKS)

    async def _store_conversations(self, directory: RedisDirectory) -> int:
        """Store them; return how many holdings that made."""
        generator, holdings = self._generator(), 0
        documents = [chain(f"document {number}", SHARED_BLOCKS) for number in range(DOCUMENTS)]
        placed: set[tuple[int, int]] = set()
        while self._stored_blocks < self.blocks - DOCUMENTS * SHARED_BLOCKS:
            document, owner = generator.randrange(DOCUMENTS), generator.randrange(self.replicas)
            shared = documents[document]
            own = chain(f"conversation {len(self._owners)}", PROMPT_BLOCKS - SHARED_BLOCKS, shared[-1])
            known = (document, owner) in placed
            placed.add((document, owner))
            holdings += await store(directory, owner, [*shared, *own], SHARED_BLOCKS if known else 0)
            self._prompts.append([*shared, *own])
            self._owners.append(owner)
            if len(self._owners) % 400 == 0:
                self.progress(f"{self._stored_blocks:,} blocks stored")
        return holdings

    async def _ingest(self, directory: RedisDirectory) -> None:
        """Push events through a mirror and an ingest, as a replica does, until all of them are in the directory."""
        ingest = Ingest(directory, replica_name(0), "ingest", Mirror(SPACE, lambda _: None))
        pushing = asyncio.create_task(ingest.run())
        generator = self._generator()
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
        known = [replica_name(number) for number in range(self.replicas)]
        policy = make_policy("expected-ttft")
        router = Router(directory, policy, SPACE, budget_s=10.0, known_replicas=lambda: known)
        calls = [Call(len(prompt) * BLOCK_TOKENS + 5, BLOCK_TOKENS, prompt) for prompt in prompts]
        generator = self._generator()

        async def decide() -> None:
            decision = await router.decide(generator.choice(calls))
            if not decision.estimates[0].overlap_tokens:
                raise RuntimeError("a stored prompt was not found")

        self.progress(f"lookups: {name}")
        await self._server_time(directory, calls, generator, name)
        times = await at_rate(decide, self.rate_per_s, self.seconds, generator)
        for percent, target_ms in ((50, p50_ms), (99, p99_ms)):
            found_ms = percentile(times, percent / 100) * 1000
            self.figures.append(Figure(f"keys to ranked replicas, {name}, p{percent}", found_ms, "ms", target_ms))

    async def _server_time(
        self, directory: RedisDirectory, calls: Sequence[Call], generator: random.Random, name: str
    ) -> None:
        """Note the server's own time for a script, as it counts it: mostly lookups, and the heartbeats beside them."""
        before = await _evalsha_us(self.url)
        for _ in range(100):
            await directory.lookup(generator.choice(calls).keys)
        after = await _evalsha_us(self.url)
        mean_ms = (after[1] - before[1]) / max(after[0] - before[0], 1) / 1000
        self.figures.append(Figure(f"{name}: the server's part, mean", mean_ms, "ms"))

    async def _placements(self, directory: RedisDirectory) -> None:
        """Time decisions that are claimed; each is settled by its replica's next heartbeat, which is not timed."""
        self.progress("placements")
        await self._open_claims()
        place_one, settled = self._turn(directory), open_directory(self.url)
        heartbeats_made: set[asyncio.Task[None]] = set()

        async def place() -> None:
            claim_id, replica = await place_one()
            state = replica_state(_number(replica))
            task = asyncio.create_task(settled.publish(state, ttl_s=LEASE_S, settled=[claim_id]))
            heartbeats_made.add(task)
            task.add_done_callback(heartbeats_made.discard)

        try:
            times = await at_rate(place, self.rate_per_s, self.seconds, self._generator())
            await asyncio.gather(*heartbeats_made)
        finally:
            await settled.close()
        name = f"keys to claimed placement, {self.replicas} replicas with {self.open_claims} open claims, 8k tokens"
        p50_ms, p99_ms = (0.8, 2.5) if self.replicas <= SMALL_FLEET else (None, 6.0)
        for percent, target_ms in ((50, p50_ms), (99, p99_ms)):
            found_ms = percentile(times, percent / 100) * 1000
            self.figures.append(Figure(f"{name}, p{percent}", found_ms, "ms", target_ms))

    async def _turns(self, directory: RedisDirectory) -> None:
        """Note the server's own time for a turn (lookup, claim, heartbeat), and for a claim of a long new prompt."""
        place_one, turns = self._turn(directory), 200
        before = await _evalsha_us(self.url)
        for _ in range(turns):
            claim_id, replica = await place_one()
            await directory.publish(replica_state(_number(replica)), ttl_s=LEASE_S, settled=[claim_id])
        after = await _evalsha_us(self.url)
        turn_ms = (after[1] - before[1]) / turns / 1000
        self.figures.append(Figure("lookup, claim and heartbeat: the server's part, mean", turn_ms, "ms", 0.6))
        apply_ms = await self._blocks_of_a_turn(directory)
        name = f"{PROMPT_BLOCKS - NEW_FROM} blocks stored and as many evicted: the server's part, mean"
        self.figures.append(Figure(name, apply_ms, "ms"))
        room = 1000 / (turn_ms + apply_ms)
        self.figures.append(Figure("turns that one server's thread has room for", room, "turns/s", at_least=True))
        prompts = [chain(f"new {number}", LONG_BLOCKS) for number in range(10)]
        before = await _evalsha_us(self.url)
        for number, prompt in enumerate(prompts):
            await directory.claim(f"long-{number}", replica_name(0), "1.0", prompt, tokens=1, unseen_from=0)
        after = await _evalsha_us(self.url)
        claim_ms = (after[1] - before[1]) / len(prompts) / 1000
        self.figures.append(Figure("claim of 8,192 new blocks: the server's part, mean", claim_ms, "ms", 1.0))

    async def _blocks_of_a_turn(self, directory: RedisDirectory) -> float:
        """Return the server's own time, in ms, for a turn of a full replica: new blocks, old ones gone."""
        old: list[Holding] = []
        turns = 100
        before = await _evalsha_us(self.url)
        for number in range(turns):
            new = place(chain(f"added {number}", PROMPT_BLOCKS))[NEW_FROM:]
            await directory.apply(replica_name(number % self.replicas), "1.0", stored=new)
            await directory.apply(replica_name((number - 1) % self.replicas), "1.0", removed=old)
            old = new
        after = await _evalsha_us(self.url)
        return (after[1] - before[1]) / turns / 1000

    async def _open_claims(self) -> None:
        """Make the claims of another gateway that stay open."""
        other, generator = open_directory(self.url), self._generator()
        for number in range(self.replicas):
            for each in range(self.open_claims):
                keys, name = generator.choice(self._prompts), replica_name(number)
                await other.claim(f"open-{number}-{each}", name, "1.0", keys, tokens=64, ttl_s=LEASE_S)
        await other.close()

    def _turn(self, directory: RedisDirectory) -> Callable[[], Awaitable[tuple[str, str]]]:
        """Return what places the next call, and says its claim's id and its replica."""
        known = [replica_name(number) for number in range(self.replicas)]
        router = Router(
            directory,
            make_policy("expected-ttft"),
            SPACE,
            budget_s=10.0,
            claim_budget_s=10.0,
            known_replicas=lambda: known,
        )
        generator = self._generator()

        async def place() -> tuple[str, str]:
            # A new question about a stored conversation: its last blocks are new.
            prompt = generator.choice(self._prompts)
            keys = [*prompt[:NEW_FROM], *chain(str(generator.random()), PROMPT_BLOCKS - NEW_FROM, prompt[NEW_FROM - 1])]
            claim_id = f"{generator.getrandbits(128):032x}"
            placed = await router.place(Call(len(keys) * BLOCK_TOKENS + 5, BLOCK_TOKENS, keys), claim_id)
            if placed.claim is not ClaimOutcome.CLAIMED:
                raise RuntimeError(f"a call was not claimed: {placed.claim}, {placed.fallback}")
            return claim_id, placed.replica

        return place

    async def _least(self, directory: RedisDirectory) -> None:
        """Time the least question to the server through the same client, at the same rate."""

        async def ping() -> None:
            await directory.ping()

        times = await at_rate(ping, self.rate_per_s, self.seconds / 4, self._generator())
        found_ms = percentile(times, 0.5) * 1000
        self.figures.append(Figure("the least question at the same rate, p50", found_ms, "ms"))


def _number(replica: str) -> int:
    return int(replica.rpartition("-")[2])


async def _evalsha_us(url: str) -> tuple[int, int]:
    """Return how many scripts the server ran, and for how many microseconds."""
    stats = (await server_info(url, "commandstats")).get("cmdstat_evalsha", {})
    return int(stats.get("calls", 0)), int(stats.get("usec", 0))


async def _used_memory(url: str) -> int:
    info = await server_info(url, "memory")
    return int(info["used_memory"])


if __name__ == "__main__":
    run_command(bench_routing)
