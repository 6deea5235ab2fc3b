"""``make bench-flush``: what a directory that lost everything costs, on a real server, while calls go on.

Each replica pushes what it holds again. Counted are decisions without the directory meanwhile, and the time until the
directory knows all conversations again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated

import typer
import uvloop
from redis.asyncio import Redis

from aloraserve.directory.redis import RedisDirectory
from aloraserve.routing.base import Call
from aloraserve.routing.policies import make_policy
from aloraserve.routing.router import Router
from aloraserve_services.cli.console import Steps, clearly, out
from aloraserve_services.cli.options import JsonFile
from benchmarks.harness.arrivals import at_rate
from benchmarks.harness.command import run_command
from benchmarks.harness.redis_server import bench_server
from benchmarks.harness.report import Figure, figures_json, show_figures, write_json
from benchmarks.harness.stats import percentile
from benchmarks.pushing_fleet import CONVERSATIONS, conversation, pushing_fleet
from benchmarks.synthetic_fleet import BLOCK_TOKENS, SPACE, open_directory, replica_name

QUIET_S = 2.0
RETRY_S = 0.02
START_S = 120.0
"""For the directory to be filled the first time."""


@clearly
def bench_flush(
    replicas: Annotated[int, typer.Option(min=2, max=512, help="Replicas in the directory.")] = 64,
    blocks: Annotated[int, typer.Option(min=12, max=1_000_000, help="Blocks that each replica holds.")] = 6000,
    rate: Annotated[float, typer.Option(min=1, max=2000, help="Decisions per second.")] = 100.0,
    seconds: Annotated[float, typer.Option(min=1, max=120, help="How long after the flush is counted.")] = 5.0,
    redis_url: Annotated[
        str | None, typer.Option(help="Redis or Valkey to be emptied; default: one of its own.")
    ] = None,
    json: JsonFile = None,
) -> None:
    """Empty the directory under load; measure decisions without it, and the time until it is whole (no engine)."""
    with contextlib.nullcontext(redis_url) if redis_url else bench_server() as url:
        figures = uvloop.run(FlushBench(str(url), replicas, blocks, rate, seconds, Steps()).run())
    show_figures(out, "directory emptied under load", figures)
    write_json(json, figures_json(figures))


@dataclass(frozen=True, slots=True)
class _Decisions:
    """Share of decisions without the directory, in percent, and how long they took."""

    fallbacks: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class FlushBench:
    """Runs the measurement on one server.

    Args:
        url: of a server that may be emptied.
        replicas: in the fleet.
        blocks: that each of them holds.
        rate_per_s: decisions per second.
        seconds: how long after the flush decisions are counted.
        progress: called with what happens.
    """

    url: str
    replicas: int
    blocks: int
    rate_per_s: float
    seconds: float
    progress: Callable[[str], None]

    async def run(self) -> list[Figure]:
        """Return the figures."""
        calls = self._conversations()
        async with AsyncExitStack() as stack:
            directory, judge = open_directory(self.url), open_directory(self.url)
            server = Redis.from_url(self.url)
            for close in (directory.close, judge.close, server.aclose):
                stack.push_async_callback(close)
            stack.enter_context(pushing_fleet(self.url, self.replicas, self.blocks))
            names = [replica_name(number) for number in range(self.replicas)]
            router = Router(directory, make_policy("expected-ttft"), SPACE, known_replicas=lambda: names)
            self.progress("replicas fill the directory")
            async with asyncio.timeout(START_S):
                await self._whole(judge, calls)
            quiet = await self._decisions(router, calls, QUIET_S)
            self.progress("emptied")
            await server.flushall()
            emptied, whole_s = await asyncio.gather(
                self._decisions(router, calls, self.seconds), self._whole(judge, calls)
            )
        return [
            Figure("fallbacks before", quiet.fallbacks, "%"),
            Figure(f"fallbacks in {self.seconds:g} s after it", emptied.fallbacks, "%", 2.0),
            Figure("decision before, p99", quiet.p99_ms, "ms"),
            Figure("decision after it, p99", emptied.p99_ms, "ms"),
            Figure(f"all {self.replicas * self.blocks:,} blocks found again after", whole_s, "s", 5.0),
        ]

    def _conversations(self) -> list[tuple[str, Call]]:
        """Return a call for each conversation, and which replica holds it."""
        blocks = self.blocks // CONVERSATIONS
        return [
            (replica_name(replica), Call(blocks * BLOCK_TOKENS, BLOCK_TOKENS, SPACE.keys(tokens)))
            for replica in range(self.replicas)
            for tokens in (conversation(replica, number, blocks) for number in range(CONVERSATIONS))
        ]

    async def _whole(self, directory: RedisDirectory, calls: Sequence[tuple[str, Call]]) -> float:
        """Wait until the directory has each conversation; return the seconds."""
        started = time.perf_counter()
        for replica, call in calls:
            is_held = False
            while not is_held:
                is_held = await self._is_held(directory, replica, call)
                await asyncio.sleep(0.0 if is_held else RETRY_S)
        return time.perf_counter() - started

    async def _is_held(self, directory: RedisDirectory, replica: str, call: Call) -> bool:
        candidates = await directory.lookup(call.keys)
        held = {candidate.state.replica: candidate.held_blocks for candidate in candidates}
        return held.get(replica) == len(call.keys)

    async def _decisions(self, router: Router, calls: Sequence[tuple[str, Call]], seconds: float) -> _Decisions:
        generator = random.Random(0)  # noqa: S311
        policies: Counter[str] = Counter()

        async def decide() -> None:
            _, call = generator.choice(calls)
            policies[(await router.decide(call)).policy] += 1

        times = await at_rate(decide, self.rate_per_s, seconds, generator)
        return _Decisions(100 * policies["fallback"] / len(times), percentile(times, 0.99) * 1000)


if __name__ == "__main__":
    run_command(bench_flush)
