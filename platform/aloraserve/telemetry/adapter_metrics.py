"""Metrics of a replica's adapters: which are loaded where, and what loading costs."""

from __future__ import annotations

from collections import Counter

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric

from aloraserve.adapters import AdapterVersion
from aloraserve.directory.adapter_places import adapter_places
from aloraserve.directory.base import ReplicaState
from aloraserve.telemetry.instruments import Instruments
from aloraserve.telemetry.labels import BoundedNames

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LOADED = "aloraserve_adapter_loaded"
_LOADED_HELP = "Loaded versions of each adapter: in a slot, or in the host's memory alone."
_LOADED_LABELS = ("adapter", "replica", "level", "pinned")


class AdapterMetrics(Instruments):
    """Counts hits, loads and evictions, and names what is loaded.

    Scrapes come on another thread: what they read is replaced and never changed in place.

    Args:
        registry: where the metrics are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self._labels = BoundedNames()
        self._names: dict[str, str] = {}
        self._hits = self.counter(
            "aloraserve_adapter_hits_total", "Calls whose adapter was loaded when they came.", ["adapter"]
        )
        self._loads = self.counter("aloraserve_adapter_loads_total", "Loads of an adapter.", ["adapter"])
        self._failures = self.counter(
            "aloraserve_adapter_load_failures_total", "Loads of an adapter that failed.", ["adapter"]
        )
        self._evictions = self.counter(
            "aloraserve_adapter_evictions_total", "Adapters that were unloaded, mostly to make room.", ["adapter"]
        )
        self._seconds = self.histogram(
            "aloraserve_adapter_load_seconds", "Time that a load took, the check of its files included.", [], _BUCKETS
        )

    def hit(self, version: AdapterVersion) -> None:
        """Count a call whose version was loaded."""
        self._hits.labels(self._labels.label(version.name)).inc()

    def loaded(self, version: AdapterVersion, seconds: float) -> None:
        """Count a load."""
        self._names = self._names | {version.key: version.name}
        label = self._labels.label(version.name)
        self._loads.labels(label).inc()
        # A rate of what begins at 1 misses the first: from here on they stand at 0.
        for counter in (self._hits, self._failures, self._evictions):
            counter.labels(label)
        self._seconds.observe(seconds)

    def evicted(self, version: AdapterVersion) -> None:
        """Count a version that left."""
        self._names = {key: name for key, name in self._names.items() if key != version.key}
        self._evictions.labels(self._labels.label(version.name)).inc()

    def failed(self, version: AdapterVersion) -> None:
        """Count a load that failed."""
        self._failures.labels(self._labels.label(version.name)).inc()

    def family(self, state: ReplicaState | None = None) -> Metric:
        """Return which adapters a replica has loaded, by its last state; without one, no samples."""
        family = GaugeMetricFamily(_LOADED, _LOADED_HELP, labels=_LOADED_LABELS)
        counts: Counter[tuple[str, ...]] = Counter()
        names = self._names
        for key, places in adapter_places([] if state is None else [state]).items():
            for place in places:
                label = self._labels.label(names[key]) if key in names else "other"
                counts[label, place.replica, place.level, str(place.pinned).lower()] += 1
        for labels, count in sorted(counts.items()):
            family.add_metric(labels, count)
        return family
