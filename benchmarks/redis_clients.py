"""``make bench-redis-clients``: this package's way to Redis beside other clients, on one server and on a cluster.

Each client runs the same script, in turns: as many keys and as many bytes as a lookup of 512 blocks has. Other clients
than redis-py are measured where they are installed (``pip install valkey-glide coredis``).
"""

from __future__ import annotations

import asyncio
import importlib
import random
import resource
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
import uvloop

from aloraserve.redis.script_client import ScriptClient
from aloraserve.redis.scripts import Script, ScriptCall
from aloraserve.redis.url import Deployment, read_url
from aloraserve_services.cli.console import Steps, clearly, out
from aloraserve_services.cli.options import JsonFile
from benchmarks.harness.arrivals import at_rate
from benchmarks.harness.command import run_command
from benchmarks.harness.report import Figure, figures_json, show_figures, write_json
from benchmarks.harness.stats import percentile

KEYS = [f"{{bench}}:{number}" for number in range(17)]
ARGUMENT = b"k" * (512 * 16)
LOOKUP = Script(
    "#!lua flags=no-writes\n"
    "local found = 0\n"
    "for _, key in ipairs(KEYS) do if redis.call('HGET', key, '1') then found = found + 1 end end\n"
    "return {string.sub(ARGV[1], 1, 8), found, found, found}\n"
)
Lookup = Callable[[], Awaitable[Any]]


@clearly
def bench_redis_clients(
    redis_url: Annotated[list[str], typer.Option(help="A server or a cluster, empty; may be given more than once.")],
    rate: Annotated[float, typer.Option(min=1, max=5000, help="Lookups per second.")] = 200.0,
    seconds: Annotated[float, typer.Option(min=1, max=600, help="How long each client is measured, each time.")] = 4.0,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Turns of each client; the median is shown.")] = 3,
    json: JsonFile = None,
) -> None:
    """Compare clients of Redis: times and CPU per lookup of 512 blocks."""
    figures = [figure for url in redis_url for figure in uvloop.run(ClientsBench(url, rate, seconds, rounds).measure())]
    show_figures(out, "Clients of Redis, a lookup of 512 blocks", figures)
    if json is not None:
        write_json(json, {"figures": figures_json(figures)})


@dataclass
class ClientsBench:
    """The turns on one server or cluster.

    Args:
        url: of an empty one.
        rate_per_s: lookups.
        seconds: of each turn.
        rounds: turns of each client.
    """

    url: str
    rate_per_s: float
    seconds: float
    rounds: int
    _samples: dict[str, list[tuple[float, float, float]]] = field(default_factory=dict)

    async def measure(self) -> list[Figure]:
        """Return p50, p99 and CPU of each client."""
        steps = Steps()
        async with AsyncExitStack() as stack:
            lookups = {name: await stack.enter_async_context(opened(self.url)) for name, opened in _CLIENTS.items()}
            present = {name: lookup for name, lookup in lookups.items() if lookup is not None}
            for turn in range(self.rounds):
                steps(f"{self._where}, turn {turn + 1} of {self.rounds}")
                idle_us = (await self._turn(_nothing))[2]
                for name, lookup in present.items():
                    p50_ms, p99_ms, cpu_us = await self._turn(lookup)
                    self._samples.setdefault(name, []).append((p50_ms, p99_ms, cpu_us - idle_us))
        return [figure for name, samples in self._samples.items() for figure in self._figures(name, samples)]

    @property
    def _where(self) -> str:
        return "cluster" if read_url(self.url).deployment is Deployment.CLUSTER else "one server"

    async def _turn(self, lookup: Lookup) -> tuple[float, float, float]:
        for _ in range(20):
            await lookup()
        before = _cpu_us()
        times = await at_rate(lookup, self.rate_per_s, self.seconds, random.Random(0))  # noqa: S311
        cpu_us = (_cpu_us() - before) / len(times)
        return percentile(times, 0.5) * 1000, percentile(times, 0.99) * 1000, cpu_us

    def _figures(self, name: str, samples: list[tuple[float, float, float]]) -> list[Figure]:
        units = (("p50", "ms"), ("p99", "ms"), ("CPU per call beyond the benchmark's own", "us"))
        medians = [statistics.median(values) for values in zip(*samples, strict=True)]
        return [
            Figure(f"{self._where}, {name}: {what}", value, unit)
            for (what, unit), value in zip(units, medians, strict=True)
        ]


async def _nothing() -> None:
    await asyncio.sleep(0)


def _cpu_us() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return (usage.ru_utime + usage.ru_stime) * 1e6


@asynccontextmanager
async def _ours(url: str) -> AsyncIterator[Lookup | None]:
    client = ScriptClient.from_url(url, timeout_s=5.0, max_calls=32, part="benchmark")
    call = ScriptCall(LOOKUP, KEYS, (ARGUMENT,))
    try:
        await client.run(call)
        yield lambda: client.run(call)
    finally:
        await client.close()


@asynccontextmanager
async def _redis_py(url: str) -> AsyncIterator[Lookup | None]:
    from redis.asyncio import Redis, RedisCluster

    [first, *_] = read_url(url).hosts
    is_cluster = read_url(url).deployment is Deployment.CLUSTER
    client: Any = (RedisCluster if is_cluster else Redis)(host=first.name, port=first.port)
    async with client:
        await client.eval(LOOKUP.source, len(KEYS), *KEYS, ARGUMENT)
        yield lambda: client.evalsha(LOOKUP.digest, len(KEYS), *KEYS, ARGUMENT)


@asynccontextmanager
async def _glide(url: str) -> AsyncIterator[Lookup | None]:
    try:
        glide: Any = importlib.import_module("glide")
    except ImportError:
        yield None
        return
    addresses = [glide.NodeAddress(host.name, host.port) for host in read_url(url).hosts]
    is_cluster = read_url(url).deployment is Deployment.CLUSTER
    kind = "GlideClusterClient" if is_cluster else "GlideClient"
    client = await getattr(glide, kind).create(getattr(glide, f"{kind}Configuration")(addresses, request_timeout=5000))
    try:
        await client.custom_command(["EVAL", LOOKUP.source, str(len(KEYS)), *KEYS, ARGUMENT])
        yield lambda: client.custom_command(["EVALSHA", LOOKUP.digest, str(len(KEYS)), *KEYS, ARGUMENT])
    finally:
        await client.close()


@asynccontextmanager
async def _coredis(url: str) -> AsyncIterator[Lookup | None]:
    try:
        coredis: Any = importlib.import_module("coredis")
    except ImportError:
        yield None
        return
    [first, *_] = read_url(url).hosts
    is_cluster = read_url(url).deployment is Deployment.CLUSTER
    async with (coredis.RedisCluster if is_cluster else coredis.Redis)(first.name, first.port) as client:
        await client.eval(LOOKUP.source, keys=KEYS, args=[ARGUMENT])
        yield lambda: client.evalsha(LOOKUP.digest, keys=KEYS, args=[ARGUMENT])


_CLIENTS = {"this package": _ours, "redis-py": _redis_py, "valkey-glide": _glide, "coredis": _coredis}


if __name__ == "__main__":
    run_command(bench_redis_clients)
