"""Calls to the directory, timed from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from aloraserve.blocks import KeySpace
from aloraserve.directory.base import Directory, ReplicaState, place
from aloraserve.directory.memory import MemoryDirectory
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.telemetry.directory import DirectoryMetrics, ObservedDirectory


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
    directory = ObservedDirectory(MemoryDirectory(), DirectoryMetrics(registry))
    await directory.publish(ReplicaState("a", "1"))
    await directory.ping()
    assert [state.replica for state in await directory.states()] == ["a"]
    assert (await directory.lookup([]))[0].state.replica == "a"
    for call in ("publish", "ping", "states", "lookup"):
        assert count(registry, call, "ok") == 1


async def test_no_call_of_the_contract_is_left_out(registry: CollectorRegistry) -> None:
    # The last two ask nobody.
    contract = {name for name in vars(Directory) if not name.startswith("_")} - {"close", "part"}
    directory = ObservedDirectory(MemoryDirectory(), DirectoryMetrics(registry))
    key, holding = b"k" * 16, place([b"k" * 16])
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "join": lambda: directory.join(KeySpace("m", "t", 16)),
        "publish": lambda: directory.publish(ReplicaState("a", "1"), ttl_s=9.0, settled=("c",)),
        "apply": lambda: directory.apply("a", "1", stored=holding),
        "lookup": lambda: directory.lookup([key]),
        "claim": lambda: directory.claim("c", "a", "1", [key], tokens=16, ttl_s=9.0, unseen_from=0),
        "withdraw": lambda: directory.withdraw("c", "a", "1", [key]),
        "states": directory.states,
        "epoch": directory.epoch,
        "reclaim": lambda: directory.reclaim(max_fields=1),
        "ping": directory.ping,
        "mark_leaving": lambda: directory.mark_leaving("a", ttl_s=9.0),
        "retire": lambda: directory.retire("a"),
    }
    assert set(calls) == contract
    for name, call in calls.items():
        await call()
        assert count(registry, name, "ok") == 1, name


@pytest.mark.parametrize(
    ("error", "outcome"), [(DirectoryUnavailableError("gone"), "unavailable"), (ValueError("no"), "failed")]
)
async def test_failures_count_by_what_they_are(registry: CollectorRegistry, error: Exception, outcome: str) -> None:
    moody = Moody()
    moody.error = error
    with pytest.raises(type(error)):
        await ObservedDirectory(moody, DirectoryMetrics(registry)).lookup([])
    assert count(registry, "lookup", outcome) == 1
    assert count(registry, "lookup", "ok") == 0


async def test_what_the_caller_gives_up_counts_as_cancelled(registry: CollectorRegistry) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await ObservedDirectory(Moody(), DirectoryMetrics(registry)).lookup([])
    assert count(registry, "lookup", "cancelled") == 1
