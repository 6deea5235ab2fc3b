"""How long a new version takes to all gateways and replicas, from when an operator asks for it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.adapter_fleet import ALIAS, AdapterFleet
from benchmarks.harness.report import Figure

TARGET_S = 2.0


@dataclass(frozen=True, slots=True)
class VersionsBench:
    """Registers versions under an alias, one after the other, and points the alias back and forth.

    Args:
        fleet: that runs.
        contents: folders; the first is what is there before.
        progress: called with what happens.
    """

    fleet: AdapterFleet
    contents: Sequence[Path]
    progress: Callable[[str], None]

    async def run(self) -> list[Figure]:
        """Return the figures: of all rounds, the median and the worst."""
        before = await self.fleet.register(self.contents[0], ALIAS)
        await self.fleet.everywhere(ALIAS, before)
        registered, switched = list[tuple[float, float]](), list[tuple[float, float]]()
        for folder in self.contents[1:]:
            self.progress(f"version {len(registered) + 2} of {len(self.contents)}")
            started = time.perf_counter()
            version = await self.fleet.register(folder, ALIAS)
            registered.append(_since(started, await self.fleet.everywhere(ALIAS, version)))
            for target in (before, version):
                started = time.perf_counter()
                await self.fleet.point(ALIAS, target)
                switched.append(_since(started, await self.fleet.everywhere(ALIAS, target)))
            before = version
        return [*_figures("registered under an alias", registered), *_figures("alias switched", switched)]


def _since(started: float, times: tuple[float, float]) -> tuple[float, float]:
    return times[0] - started, times[1] - started


def _figures(what: str, times: Sequence[tuple[float, float]]) -> list[Figure]:
    return [
        figure
        for name, column in zip(("all gateways", "all replicas"), zip(*times, strict=True), strict=True)
        for figure in (
            Figure(f"{what}, on {name}: median", statistics.median(column), "s", TARGET_S),
            Figure(f"{what}, on {name}: worst", max(column), "s", TARGET_S),
        )
    ]
