"""``make bench-limits``: what a call of a limited tenant costs, in Redis' time and as a round trip, with targets.

Each call takes against all four limits of its tenant and is settled as gateways do it; half of the corrections give
tokens back. Calls come as a Poisson process, of one tenant and of many in turns. Redis' time is its own
(``INFO commandstats``), scripts with all their commands.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator
from typing import Annotated, Any

import typer
import uvloop

from aloraserve.limits import Demand, Settlement, Want
from aloraserve.limits.redis import RedisLimits
from aloraserve.tenants.limits import TenantLimits
from aloraserve_services.cli.console import clearly, out
from aloraserve_services.cli.options import JsonFile
from benchmarks.harness.arrivals import at_rate
from benchmarks.harness.command import run_command
from benchmarks.harness.redis_server import bench_server, server_info
from benchmarks.harness.report import Figure, figures_json, show_figures, write_json
from benchmarks.harness.stats import percentile

REDIS_MS, P99_MS = 0.3, 2.0
LIMITS = TenantLimits(
    requests_per_minute=10**9, tokens_per_minute=10**12, uncached_tokens_per_minute=10**12, concurrency=10**6
)


@clearly
def bench_limits(
    redis_url: Annotated[str | None, typer.Option(help="An empty server; default: one of its own.")] = None,
    rate: Annotated[float, typer.Option(min=1, max=10_000, help="Calls per second.")] = 200.0,
    seconds: Annotated[float, typer.Option(min=1, max=600, help="How long each part takes.")] = 10.0,
    tenants: Annotated[str, typer.Option(help="Numbers of tenants, separated by commas.")] = "1,1000",
    json: JsonFile = None,
) -> None:
    """Measure taking against a tenant's limits, and settling, on a Redis server."""
    counts = [int(count) for count in tenants.split(",")]
    if redis_url is not None:
        figures = uvloop.run(_measure_all(redis_url, counts, rate, seconds))
    else:
        with bench_server() as url:
            figures = uvloop.run(_measure_all(url, counts, rate, seconds))
    show_figures(out, f"Limits, {rate:g} calls per second", figures)
    if json is not None:
        write_json(json, {"figures": figures_json(figures)})


async def _measure_all(url: str, counts: list[int], rate: float, seconds: float) -> list[Figure]:
    return [figure for count in counts for figure in await _measure(url, count, rate, seconds)]


async def _measure(url: str, tenants: int, rate: float, seconds: float) -> list[Figure]:
    store = RedisLimits.from_url(url, namespace=f"bench-{tenants}")
    wants = _wants(tenants)
    running: list[Want] = []

    async def take() -> None:
        want = next(wants)
        await store.take(want)
        running.append(want)

    async def settle() -> None:
        if running:
            want = running.pop(random.randrange(len(running)))  # noqa: S311
            await store.settle([Settlement(want, Demand(0, random.choice([-200, 100]), -50))])  # noqa: S311

    try:
        await take()
        await settle()
        before = await _script_time(url)
        takes, _ = await asyncio.gather(
            at_rate(take, rate, seconds, random.Random(1)),  # noqa: S311
            at_rate(settle, rate, seconds, random.Random(2)),  # noqa: S311
        )
        after = await _script_time(url)
    finally:
        await store.close()
    calls, microseconds = (late - early for late, early in zip(after, before, strict=True))
    name = f"{tenants:,} tenant{'s' * (tenants > 1)}"
    return [
        Figure(f"{name}: Redis' time per script", microseconds / calls / 1000, "ms", REDIS_MS),
        Figure(f"{name}: round trip, p50", 1000 * percentile(takes, 0.5), "ms"),
        Figure(f"{name}: round trip, p99", 1000 * percentile(takes, 0.99), "ms", P99_MS),
    ]


def _wants(tenants: int) -> Iterator[Want]:
    for number in itertools.count():
        yield Want(f"tenant-{number % tenants}", LIMITS, Demand(1, 1200, 300), f"lease-{number}", f"call-{number}")


async def _script_time(url: str) -> tuple[int, int]:
    """Return how many scripts a server ran, and the microseconds that they took."""
    stats: dict[str, Any] = await server_info(url, "commandstats")
    scripts = [stats[name] for name in ("cmdstat_evalsha", "cmdstat_eval") if name in stats]
    return sum(entry["calls"] for entry in scripts), sum(entry["usec"] for entry in scripts)


if __name__ == "__main__":
    run_command(bench_limits)
