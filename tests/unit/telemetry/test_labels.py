"""Label sets stay small."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from aloraserve.telemetry import cached_labels
from aloraserve.telemetry.instruments import Instruments
from aloraserve.telemetry.labels import OTHER, BoundedNames


def test_names_beyond_the_limit_share_a_label_and_earlier_ones_keep_theirs() -> None:
    names = BoundedNames(2)
    assert [names.label(name) for name in ("a", "b", "c", "a", "d", "b")] == ["a", "b", OTHER, "a", OTHER, "b"]


def test_no_adapter_is_an_empty_label_and_takes_no_place() -> None:
    names = BoundedNames(1)
    assert [names.label(name) for name in (None, "a", None)] == ["", "a", ""]


class Two(Instruments):
    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.calls = Counter("calls_total", "Calls.", ["kind"], registry=registry)
        self.depth = Gauge("depth", "Depth.", registry=registry)


def test_what_is_turned_off_counts_nothing_and_is_shown_nowhere() -> None:
    registry = CollectorRegistry()
    two = Two(registry)
    two.turn_off()
    two.calls.labels("x").inc()
    two.depth.inc()
    two.depth.dec()
    assert list(registry.collect()) == []


def test_quick_labels_count_as_the_usual_ones_do() -> None:
    registry = CollectorRegistry()
    calls = cached_labels.Counter("quick_calls_total", "Calls.", ["kind", "status"], registry=registry)
    times = cached_labels.Histogram("quick_seconds", "Times.", ["kind"], buckets=(1, 2), registry=registry)
    for _ in "ab":
        calls.labels("x", "200").inc()
        times.labels("x").observe(1.5)
    calls.labels("x", "500").inc()
    values = {
        (sample.name, tuple(sample.labels.items())): sample.value
        for family in registry.collect()
        for sample in family.samples
    }
    assert values["quick_calls_total", (("kind", "x"), ("status", "200"))] == 2
    assert values["quick_calls_total", (("kind", "x"), ("status", "500"))] == 1
    assert values["quick_seconds_bucket", (("kind", "x"), ("le", "1.0"))] == 0
    assert values["quick_seconds_bucket", (("kind", "x"), ("le", "2.0"))] == 2


def test_a_wrong_number_of_labels_is_refused() -> None:
    calls = cached_labels.Counter("refused_total", "Calls.", ["kind"], registry=CollectorRegistry())
    with pytest.raises(ValueError, match="label"):
        calls.labels("x", "y")
