"""Label sets stay small."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

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
