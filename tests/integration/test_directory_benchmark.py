"""``make bench-routing`` and ``make bench-flush`` in small: every figure is measured, on a real server."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.directory import DirectoryBench
from benchmarks.directory_flush import FlushBench


@pytest.mark.timeout(120)
async def test_every_figure_is_measured(redis_server: Any) -> None:
    bench = DirectoryBench(redis_server.url, 4, 20_000, 50.0, 1.0, 2, 0, lambda _: None)
    figures = {figure.name: figure.value for figure in await bench.run()}
    assert all(value > 0 for value in figures.values()), figures
    assert {name for name in figures if name.startswith("keys to ranked replicas")} == {
        f"keys to ranked replicas, {prompts}, p{percent}"
        for prompts in ("4 replicas, 8k tokens", "128k tokens")
        for percent in (50, 99)
    }


@pytest.mark.timeout(120)
async def test_a_flush_is_measured(redis_server: Any) -> None:
    figures = await FlushBench(redis_server.url, 4, 120, 50.0, 1.0, lambda _: None).run()
    values = {figure.name: figure.value for figure in figures}
    assert values["all 480 blocks found again after"] > 0
    assert 0 <= values["fallbacks in 1 s after it"] <= 100
