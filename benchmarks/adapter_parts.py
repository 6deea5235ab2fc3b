"""The parts of the adapter benchmark: what each starts, and what it prints."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import httpx

from aloraserve.adapters import BaseShape
from aloraserve.settings import Settings
from aloraserve_services.cli.console import Steps, out
from aloraserve_services.engine.simulated.answer_words import AnswerWords
from aloraserve_services.local.platform import LocalPlatform
from aloraserve_services.models.model_files import resolve_model
from benchmarks.adapter_catalog import CatalogBench
from benchmarks.adapter_fleet import AdapterFleet, adapter_platform, write_contents
from benchmarks.adapter_intrinsics import COUNTS, NAMES, TIMEOUT_S, IntrinsicsBench, IntrinsicsClient
from benchmarks.adapter_register import RegisterBench
from benchmarks.adapter_switch import SwitchBench
from benchmarks.adapter_versions import VersionsBench
from benchmarks.gateway_calls import Bodies
from benchmarks.harness.client import AsyncStreamingClient
from benchmarks.harness.redis_server import bench_server
from benchmarks.harness.report import Figure, show_figures
from benchmarks.intrinsics_result import IntrinsicsSample, intrinsics_figures, intrinsics_table

KV_CACHE_GIB = 2.0
"""For a conversation as the base model and as five plain LoRA adapters have it."""
RESOLVE_S = 5.0
SWITCH_EVERY_S = 2.5


class Part(StrEnum):
    """What can be measured alone."""

    CATALOG = "catalog"
    REGISTER = "register"
    VERSIONS = "versions"
    SWITCH = "switch"
    INTRINSICS = "intrinsics"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything, as the command's options say."""

    entries: int
    megabytes: float
    streams: int
    switches: int
    tokens: int


@dataclass
class AdapterParts:
    """Measures parts and prints each.

    Args:
        settings: of the platform of versions and switch; the others need its model and its state folder.
        sizes: how much of everything.
        rounds: of everything.
        seed: of everything random.
        steps: progress.

    Attributes:
        figures: by part.
        samples: of the intrinsics.
    """

    settings: Settings
    sizes: Sizes
    rounds: int
    seed: int
    steps: Steps
    figures: dict[Part, list[Figure]] = field(default_factory=dict)
    samples: list[IntrinsicsSample] = field(default_factory=list)

    def run(self, wanted: set[Part]) -> None:
        """Measure these."""
        wanted = set(Part) if Part.ALL in wanted else wanted
        if Part.CATALOG in wanted:
            self.catalog()
        if Part.REGISTER in wanted:
            self.register()
        if wanted & {Part.VERSIONS, Part.SWITCH}:
            self.fleet(wanted)
        if Part.INTRINSICS in wanted:
            self.intrinsics()

    def catalog(self) -> None:
        """Measure a catalog of many adapters."""
        with _folder() as folder, bench_server() as url:
            bench = CatalogBench(url, folder, self.sizes.entries, RESOLVE_S, self.rounds, self.seed, self.steps)
            self._show(Part.CATALOG, f"a catalog of {self.sizes.entries:,} adapters", asyncio.run(bench.run()))

    def register(self) -> None:
        """Measure the registration of a big adapter."""
        model = resolve_model(self.settings.model, self.settings.state_dir, "float32", progress=self.steps)[1]
        with _folder() as folder, bench_server() as url:
            shape = BaseShape.read(model)
            bench = RegisterBench(url, folder, shape, self.sizes.megabytes, self.rounds, self.steps)
            self._show(Part.REGISTER, "an adapter from a folder", asyncio.run(bench.run()))

    def fleet(self, wanted: set[Part]) -> None:
        """Measure new versions, and switches of an alias, on one platform."""
        with _folder() as folder, adapter_platform(self.settings, folder, NAMES[:1], self.steps) as platform:
            contents = write_contents(folder / "contents", platform.plan.model_path, self.rounds + 1)
            if Part.VERSIONS in wanted:
                self._show(Part.VERSIONS, self._on("new versions"), asyncio.run(self._versions(platform, contents)))
            if Part.SWITCH in wanted:
                title = self._on(f"an alias under {self.sizes.streams} streams")
                self._show(Part.SWITCH, title, asyncio.run(self._switch(platform, contents[:2])))

    def intrinsics(self) -> None:
        """Measure intrinsics over one conversation, on one real engine."""
        engine = {"engine": "vllm", "replicas": 1, "gateways": 1, "kv_cache_gib": KV_CACHE_GIB}
        settings = self.settings.model_copy(update=engine)
        with (
            _folder() as folder,
            adapter_platform(settings, folder, NAMES, self.steps) as platform,
            _http(platform) as http,
        ):
            plan = platform.plan
            client = IntrinsicsClient(http, plan.served_name, settings.block_tokens)
            bodies = Bodies(plan.served_name, AnswerWords.read(plan.model_path))
            bench = IntrinsicsBench(
                client, bodies, NAMES, tokens=self.sizes.tokens, seed=self.seed, progress=self.steps
            )
            self.samples = bench.run(self.rounds, COUNTS)
            title = f"intrinsics on {self.sizes.tokens:,} tokens, one replica of {plan.served_name} in {plan.dtype}"
        out.print(intrinsics_table(self.samples))
        self._show(Part.INTRINSICS, title, intrinsics_figures(self.samples))

    async def _versions(self, platform: LocalPlatform, contents: Sequence[Path]) -> list[Figure]:
        async with AdapterFleet.of(platform, Part.VERSIONS) as fleet:
            return await VersionsBench(fleet, contents, self.steps).run()

    async def _switch(self, platform: LocalPlatform, contents: Sequence[Path]) -> list[Figure]:
        async with AdapterFleet.of(platform, Part.SWITCH) as fleet:
            versions = [await fleet.register(content) for content in contents]
            bench = SwitchBench(
                fleet,
                AsyncStreamingClient(platform.url, platform.headers),
                versions,
                streams=self.sizes.streams,
                switches=self.sizes.switches,
                every_s=SWITCH_EVERY_S,
                seed=self.seed,
                progress=self.steps,
            )
            return await bench.run()

    def _on(self, what: str) -> str:
        settings = self.settings
        return f"{what}, {settings.replicas} {settings.engine} replicas, {settings.gateways} gateways"

    def _show(self, part: Part, title: str, figures: list[Figure]) -> None:
        self.figures[part] = figures
        show_figures(out, title, figures)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="alora-bench-") as folder:
        yield Path(folder)


def _http(platform: LocalPlatform) -> httpx.Client:
    return httpx.Client(base_url=platform.url, headers=platform.headers, timeout=TIMEOUT_S, trust_env=False)
