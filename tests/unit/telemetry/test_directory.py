"""Calls to the directory, timed from outside."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from aloraserve.directory.base import Directory, Process, ReplicaState
from aloraserve.directory.memory import MemoryDirectory
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.telemetry.directory import DirectoryMetrics, observed


class Moody(MemoryDirectory):
    """Lookups fail, or hang."""

    error: Exception | None = None

    async def lookup(self, keys: Any) -> Any:
        if self.error:
            raise self.error
        await asyncio.Event().wait()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def count(registry: CollectorRegistry, call: str, outcome: str) -> float:
    labels = {"call": call, "outcome": outcome}
    return registry.get_sample_value("aloraserve_directory_seconds_count", labels) or 0.0


async def test_every_call_of_the_contract_is_timed_and_answers_as_before(registry: CollectorRegistry) -> None:
    directory = observed(MemoryDirectory(), DirectoryMetrics(registry))
    await directory.publish(ReplicaState("a", "1"))
    await directory.announce(Process("engine", "a", "h:1"))
    assert [state.replica for state in await directory.states()] == ["a"]
    assert (await directory.lookup([]))[0].state.replica == "a"
    for call in ("publish", "announce", "states", "lookup"):
        assert count(registry, call, "ok") == 1


async def test_no_call_of_the_contract_is_left_out(registry: CollectorRegistry) -> None:
    directory = observed(MemoryDirectory(), DirectoryMetrics(registry))
    contract = {name for name in vars(Directory) if not name.startswith("_")} - {"close"}
    bare = MemoryDirectory()
    assert [name for name in sorted(contract) if getattr(directory, name) == getattr(bare, name)] == []
    assert {name for name in contract if getattr(directory, name).__name__ == "call"} == contract


@pytest.mark.parametrize(
    ("error", "outcome"), [(DirectoryUnavailableError("gone"), "unavailable"), (ValueError("no"), "failed")]
)
async def test_failures_count_by_what_they_are(registry: CollectorRegistry, error: Exception, outcome: str) -> None:
    moody = Moody()
    moody.error = error
    with pytest.raises(type(error)):
        await observed(moody, DirectoryMetrics(registry)).lookup([])
    assert count(registry, "lookup", outcome) == 1
    assert count(registry, "lookup", "ok") == 0


async def test_what_the_caller_gives_up_counts_as_cancelled(registry: CollectorRegistry) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await observed(Moody(), DirectoryMetrics(registry)).lookup([])
    assert count(registry, "lookup", "cancelled") == 1
