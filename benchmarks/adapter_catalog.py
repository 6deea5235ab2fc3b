"""The catalog's figures: 10,000 adapters on a real server, as gateways resolve calls in it and people list it."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from aloraserve.adapters.catalog import EntryQuery
from aloraserve.adapters.catalog.registry import CatalogRegistry
from aloraserve.adapters.management import AdapterManager
from aloraserve.adapters.shape import BaseShape
from aloraserve.adapters.store import AdapterStore
from benchmarks.adapter_gateway import GatewayParts, opened_gateway
from benchmarks.adapter_records import ALIAS, PRODUCTS, made_file, make_room
from benchmarks.harness.redis_server import server_info
from benchmarks.harness.report import Figure
from benchmarks.harness.stats import percentile, timed

PAGE = 100
RESOLVE_TARGET_MS, LIST_TARGET_MS = 5.0, 50.0
RATE_PER_S = 200.0
CHANGE_EVERY_S = 1.0
MIB = 1 << 20
SHAPE = BaseShape.decoder(
    layers=1, hidden_size=64, intermediate_size=64, heads=1, kv_heads=1, head_dim=64, vocab_size=100
)
"""Has the linears' names; the catalog knows no sizes."""


@dataclass(frozen=True, slots=True)
class CatalogBench:
    """Measures one server, empty at the beginning.

    Args:
        url: of the server.
        folder: for the store.
        entries: adapters in the catalog.
        seconds: how long calls are resolved.
        rounds: of every list.
        seed: of what is asked for.
        progress: called with what happens.
    """

    url: str
    folder: Path
    entries: int
    seconds: float
    rounds: int
    seed: int
    progress: Callable[[str], None]

    async def run(self) -> list[Figure]:
        """Return the figures."""
        before = await _used_memory(self.url)
        self.progress(f"a catalog of {self.entries:,} adapters is imported")
        import_s = await asyncio.to_thread(_in_another_process, self.url, self.folder, self.entries)
        server_mb = (await _used_memory(self.url) - before) / MIB
        async with opened_gateway(self.url, AdapterStore(self.folder), SHAPE) as parts:
            begin_s, grown_mb = await _begun(parts.registry)
            return [
                Figure("import, file to catalog", import_s, "s"),
                Figure("a gateway's start: read all", begin_s, "s"),
                Figure("memory, server", server_mb, "MiB"),
                Figure("memory, gateway", grown_mb, "MiB"),
                *await self._resolved(parts),
                *await self._listed(parts.manager),
                *await self._exported(parts.manager),
            ]

    async def _resolved(self, parts: GatewayParts) -> list[Figure]:
        self.progress("calls are resolved")
        took, waited = await self._calls(parts.registry)
        changing = asyncio.create_task(self._change(parts))
        _, waited_busy = await self._calls(parts.registry)
        changing.cancel()
        await asyncio.wait({changing})
        return [
            *_spread("resolve", took, RESOLVE_TARGET_MS),
            *_spread("from when a call was due", waited),
            *_spread("the same while adapters change", waited_busy),
        ]

    async def _calls(self, registry: CatalogRegistry) -> tuple[list[float], list[float]]:
        """Return how long it took to resolve each call, and how long from when it was due, the event loop included."""
        chooser = random.Random(self.seed)  # noqa: S311
        entries = [stored.record.versions[0] for stored in registry.view]
        took, waited = list[float](), list[float]()
        begun = due = time.perf_counter()
        while due - begun < self.seconds:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            entry = chooser.choice(entries)
            name = chooser.choice((entry.name, f"{entry.name}@{ALIAS}", entry.shown))
            started = time.perf_counter()
            registry.resolve(name, key="conversation")
            ended = time.perf_counter()
            took.append(ended - started)
            waited.append(ended - due)
            due += chooser.expovariate(RATE_PER_S)
        return took, waited

    async def _change(self, parts: GatewayParts) -> None:
        """Have another gateway's changes come in, as often as an operator's script would make them."""
        chooser = random.Random(self.seed + 1)  # noqa: S311
        names = [stored.record.name for stored in parts.registry.view]
        while True:
            name = chooser.choice(names)
            await parts.manager.point(f"{name}@canary", name)
            await parts.registry.refresh()
            await parts.manager.remove_alias(f"{name}@canary")
            await asyncio.sleep(CHANGE_EVERY_S)

    async def _listed(self, manager: AdapterManager) -> list[Figure]:
        self.progress("pages are listed")
        pages, filtered = list[float](), list[float]()
        for _ in range(self.rounds):
            pages += await _walked(manager)
            for query in self._queries():
                filtered.append((await timed(partial(manager.list, query)))[1])
        return [
            *_spread(f"list, page of {PAGE}", pages, LIST_TARGET_MS),
            *_spread(f"filter, page of {PAGE}", filtered, LIST_TARGET_MS),
        ]

    def _queries(self) -> list[EntryQuery]:
        """Return filters that fit many, a few and none: those look at every entry."""
        products: list[Mapping[str, str]] = [{"product": f"product-{number:02d}"} for number in range(PRODUCTS)]
        return [
            *(EntryQuery(labels=labels, limit=PAGE) for labels in products),
            *(EntryQuery(labels=labels, kind="lora", prefix="safety", limit=PAGE) for labels in products),
            *(EntryQuery(labels={"product": "none"}, limit=PAGE) for _ in products),
        ]

    async def _exported(self, manager: AdapterManager) -> list[Figure]:
        content, took_s = await timed(manager.export)
        return [Figure("export, catalog to file", took_s, "s"), Figure("the file", len(content) / MIB, "MiB")]


async def _walked(manager: AdapterManager) -> list[float]:
    """Return how long each page took, from the first to the last."""
    times: list[float] = []
    cursor = ""
    while cursor or not times:
        page, took_s = await timed(partial(manager.list, EntryQuery(limit=PAGE, cursor=cursor)))
        times.append(took_s)
        cursor = page.next
    return times


async def _begun(registry: CatalogRegistry) -> tuple[float, float]:
    """Return how long a registry takes to read everything, in seconds, and the MiB that it takes in this process."""
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss
    _, took_s = await timed(registry.begin)
    gc.collect()
    return took_s, (process.memory_info().rss - before) / MIB


def _in_another_process(url: str, folder: Path, entries: int) -> float:
    """Import in another process, so that this one's memory is that of a gateway which only reads."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_imported, url, folder, entries).result()


def _imported(url: str, folder: Path, entries: int) -> float:
    make_room(folder, entries)
    content = made_file(entries)

    async def run() -> float:
        async with opened_gateway(url, AdapterStore(folder), SHAPE) as parts:
            return (await timed(lambda: parts.manager.import_file(content)))[1]

    return asyncio.run(run())


async def _used_memory(url: str) -> int:
    return int((await server_info(url, "memory"))["used_memory"])


def _spread(name: str, times: Sequence[float], target_ms: float | None = None) -> list[Figure]:
    return [
        Figure(f"{name}, p50", percentile(times, 0.5) * 1000, "ms"),
        Figure(f"{name}, p99", percentile(times, 0.99) * 1000, "ms", target_ms),
    ]
