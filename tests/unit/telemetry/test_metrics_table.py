"""``docs/reference/metrics.md`` names every metric of the code, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from aloraserve.telemetry.adapter_metrics import AdapterMetrics
from aloraserve.telemetry.directory import DirectoryMetrics
from aloraserve.telemetry.instruments import Instruments
from aloraserve.telemetry.replica_metrics import ReplicaMetrics, ReplicaReadings
from aloraserve_services.autoscaler.metrics import ScalingMetrics
from aloraserve_services.gateway.metrics import GatewayMetrics

DOCUMENT = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"
Row = tuple[str, frozenset[str]]


def documented() -> dict[str, Row]:
    """Return type and labels of every metric in the document's tables, by name."""
    rows = re.findall(r"^\| `(aloraserve_\w+)` \| (\w+) \|([^|]*)\| [^|]+\|$", DOCUMENT.read_text(), re.MULTILINE)
    assert len({name for name, _, _ in rows}) == len(rows), "a metric is in the tables twice"
    return {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def of_instruments(group: Instruments) -> dict[str, Row]:
    found = {}
    for metric in vars(group).values():
        if isinstance(metric, MetricWrapperBase):
            end = "_total" if metric._type == "counter" else ""
            found[metric._name + end] = (metric._type, frozenset(metric._labelnames))
    return found


def defined() -> dict[str, Row]:
    """Return the same of the code."""
    replica = ReplicaMetrics(CollectorRegistry())
    adapters = AdapterMetrics(CollectorRegistry())
    directory, scaling = DirectoryMetrics(CollectorRegistry()), ScalingMetrics(CollectorRegistry())
    groups = (GatewayMetrics(CollectorRegistry()), replica, adapters, directory, scaling)
    found = {name: row for group in groups for name, row in of_instruments(group).items()}
    for family in ReplicaReadings(adapters).describe():
        end = "_total" if family.type == "counter" else ""
        found[family.name + end] = (family.type, frozenset(family._labelnames or ()))  # type: ignore[attr-defined]
    return found


def test_every_metric_is_documented_with_its_type_and_labels() -> None:
    assert documented() == defined()


def test_what_is_read_at_a_scrape_is_what_was_described() -> None:
    readings = ReplicaReadings(AdapterMetrics(CollectorRegistry()))
    described = {family.name for family in readings.describe()}
    assert {family.name for family in readings.collect()} <= described


@pytest.mark.parametrize("label", sorted({label for _, labels in documented().values() for label in labels}))
def test_every_label_has_a_documented_bound(label: str) -> None:
    bounds = DOCUMENT.read_text().partition("## Labels and their bounds")[2].partition("\n## ")[0]
    assert f"`{label}`" in bounds
