"""What is shown of a replica's adapters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from aloraserve.adapters import AdapterVersion
from aloraserve.directory.base import ReplicaState
from aloraserve.telemetry.adapter_metrics import AdapterMetrics
from aloraserve.telemetry.labels import MAX_ADAPTER_LABELS

FIRST = AdapterVersion("safety", "alora", Path("safety"), 8, (), (1,), "digest 1")
SECOND = replace(FIRST, digest="digest 2")
OTHER = replace(FIRST, name="other-one", digest="digest 3")


class Scraped(Collector):
    """The metrics of a replica with a state of the test's own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = AdapterMetrics(self.registry)
        self.state = ReplicaState("a", "1", "engine-0")
        self.registry.register(self)

    def collect(self) -> list[Metric]:
        return [self.metrics.family(self.state)]

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"aloraserve_adapter_{name}", labels)

    def loaded(self, adapter: str, level: str, pinned: str = "false") -> float | None:
        return self.value("loaded", adapter=adapter, replica="engine-0", level=level, pinned=pinned)


@pytest.fixture
def scraped() -> Scraped:
    return Scraped()


def test_each_loaded_version_counts_where_it_is(scraped: Scraped) -> None:
    for version in (FIRST, SECOND, OTHER):
        scraped.metrics.loaded(version, 0.1)
    scraped.state = replace(
        scraped.state,
        resident=(FIRST.key, SECOND.key, OTHER.key),
        slotted=(FIRST.key,),
        pinned=(OTHER.key,),
    )
    assert (scraped.loaded("safety", "slot"), scraped.loaded("safety", "host")) == (1, 1)
    assert (scraped.loaded("other-one", "host", "true"), scraped.loaded("other-one", "host")) == (1, None)


def test_what_leaves_is_shown_no_more_and_counted(scraped: Scraped) -> None:
    for version in (FIRST, OTHER):
        scraped.metrics.loaded(version, 0.1)
    counts = ("hits_total", "evictions_total", "load_failures_total")
    assert [scraped.value(count, adapter="safety") for count in counts] == [0, 0, 0]
    scraped.metrics.evicted(FIRST)
    scraped.state = replace(scraped.state, resident=(OTHER.key,))
    assert (scraped.loaded("safety", "host"), scraped.loaded("other-one", "host")) == (None, 1)
    assert scraped.value("evictions_total", adapter="safety") == 1


def test_hits_loads_and_failures_are_counted_and_loads_are_timed(scraped: Scraped) -> None:
    scraped.metrics.loaded(FIRST, 0.3)
    scraped.metrics.hit(FIRST)
    scraped.metrics.hit(SECOND)
    scraped.metrics.failed(OTHER)
    assert scraped.value("loads_total", adapter="safety") == 1
    assert scraped.value("hits_total", adapter="safety") == 2
    assert scraped.value("load_failures_total", adapter="other-one") == 1
    assert (scraped.value("load_seconds_count"), scraped.value("load_seconds_sum")) == (1, 0.3)


def test_adapters_beyond_the_limit_share_a_label_with_their_number(scraped: Scraped) -> None:
    versions = [replace(FIRST, name=f"adapter-{n}", digest=f"digest {n}") for n in range(MAX_ADAPTER_LABELS + 5)]
    for version in versions:
        scraped.metrics.loaded(version, 0.1)
    scraped.state = replace(scraped.state, resident=tuple(version.key for version in versions))
    assert scraped.loaded("other", "host") == 5
    assert scraped.value("loads_total", adapter="other") == 5


def test_metrics_that_are_turned_off_count_nothing(scraped: Scraped) -> None:
    scraped.metrics.turn_off()
    scraped.metrics.loaded(FIRST, 0.1)
    scraped.metrics.hit(FIRST)
    assert scraped.value("loads_total", adapter="safety") is None
