"""A group of metrics in one registry, which can be turned off as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from aloraserve.telemetry.cached_labels import Counter, Histogram


class NoInstrument:
    """Takes whatever a metric takes, and counts nothing."""

    def labels(self, *values: str, **named: str) -> NoInstrument:
        """Return itself."""
        return self

    def observe(self, amount: float) -> None:
        """Do nothing."""

    def inc(self, amount: float = 1.0) -> None:
        """Do nothing."""

    def dec(self, amount: float = 1.0) -> None:
        """Do nothing."""

    def set(self, value: float) -> None:
        """Do nothing."""


class Instruments:
    """Base of the classes whose attributes are a process's metrics.

    Args:
        registry: where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry

    def counter(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Counter:
        """Return a new counter of this registry."""
        return Counter(name, documentation, labels, registry=self.registry)

    def histogram(self, name: str, documentation: str, labels: Sequence[str], buckets: Sequence[float]) -> Histogram:
        """Return a new histogram of this registry."""
        return Histogram(name, documentation, labels, buckets=buckets, registry=self.registry)

    def turn_off(self) -> None:
        """Replace every metric by one that counts nothing, and no longer expose them."""
        for name, metric in list(vars(self).items()):
            if isinstance(metric, MetricWrapperBase):
                self.registry.unregister(metric)
                off: Any = NoInstrument()
                setattr(self, name, off)
