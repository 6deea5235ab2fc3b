"""What is read off a replica when it is scraped."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from aloraserve.blocks import EventBatch, KeySpace
from aloraserve.directory.base import ReplicaLoad, ReplicaState
from aloraserve.directory.ingest import Ingest
from aloraserve.directory.memory import MemoryDirectory
from aloraserve.directory.mirror import Mirror
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.telemetry.adapter_metrics import AdapterMetrics
from aloraserve.telemetry.replica_metrics import ReplicaReadings, StateWatcher


class Gone(MemoryDirectory):
    """Takes no heartbeat while it is gone."""

    is_gone = False

    async def publish(self, state: ReplicaState, **options: object) -> None:
        if self.is_gone:
            raise DirectoryUnavailableError("gone")


class Scraped:
    """A replica's readings on a clock of the test's own."""

    def __init__(self) -> None:
        self.now = 100.0
        self.registry = CollectorRegistry()
        self.readings = ReplicaReadings(AdapterMetrics(self.registry), lambda: self.now)
        self.registry.register(self.readings)
        self.behind = Gone()
        self.directory = StateWatcher(self.behind, self.readings)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"aloraserve_{name}", labels)


@pytest.fixture
def scraped() -> Scraped:
    return Scraped()


async def test_the_last_published_state_is_shown(scraped: Scraped) -> None:
    load = ReplicaLoad(running=3, waiting=1, queued_prefill_tokens=500, kv_usage=0.25, kv_tokens=4096)
    await scraped.directory.publish(ReplicaState("a", "1", load=load, resident=("safety",), held_blocks=7))
    for name, value in {
        "running_requests": 3,
        "waiting_requests": 1,
        "queued_prefill_tokens": 500,
        "kv_usage_ratio": 0.25,
        "kv_capacity_tokens": 4096,
        "held_blocks": 7,
        "resident_adapters": 1,
    }.items():
        assert scraped.value(name) == value


async def test_a_directory_that_takes_no_heartbeat_is_silent_until_the_lease_is_lost(scraped: Scraped) -> None:
    await scraped.directory.publish(ReplicaState("a", "1"))
    scraped.behind.is_gone = True
    scraped.now += 1.5
    with pytest.raises(DirectoryUnavailableError):
        await scraped.directory.publish(ReplicaState("a", "1", held_blocks=9))
    assert (scraped.value("directory_silence_seconds"), scraped.value("lease_alive")) == (1.5, 1)
    assert scraped.value("held_blocks") == 9, "what it holds is known all the same"
    scraped.now += 1.0
    assert (scraped.value("directory_silence_seconds"), scraped.value("lease_alive")) == (2.5, 0)
    scraped.behind.is_gone = False
    await scraped.directory.publish(ReplicaState("a", "1"))
    assert (scraped.value("directory_silence_seconds"), scraped.value("lease_alive")) == (0, 1)


async def test_lost_events_are_counted(scraped: Scraped) -> None:
    mirror = Mirror(KeySpace("m", "t", 32), lambda name: None)
    ingest = Ingest(MemoryDirectory(), "a", "1", mirror)
    assert scraped.value("ingest_gaps_total") is None
    scraped.readings.watch(ingest, mirror)
    ingest.offer(EventBatch(5, ()))
    assert scraped.value("ingest_gaps_total") == 1
    assert scraped.value("ingest_dropped_events_total", cause="unknown_parent") == 0


async def test_what_the_directory_answers_passes_through(scraped: Scraped) -> None:
    await scraped.directory.ping()
    assert await scraped.directory.states() == []
