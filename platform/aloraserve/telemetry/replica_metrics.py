"""Metrics of an engine replica: its calls as they go, its load, holdings and ingest as they are when it is scraped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from aloraserve.directory.base import LEASE_TTL_S, Directory, ReplicaLoad, ReplicaState
from aloraserve.directory.ingest import Ingest, IngestStats
from aloraserve.directory.mirror import Mirror
from aloraserve.directory.wrapper import DirectoryWrapper
from aloraserve.telemetry.adapter_metrics import AdapterMetrics
from aloraserve.telemetry.instruments import Instruments

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120)


class ReplicaMetrics(Instruments):
    """Metrics that are counted call by call."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.queue = self.histogram(
            "aloraserve_queue_seconds",
            "Time from a call's arrival at the replica until its prefill began.",
            ["kind"],
            _BUCKETS,
        )
        self.prefill = self.histogram(
            "aloraserve_prefill_seconds",
            "Time that a call's prefill took, from its begin to the first token.",
            ["kind"],
            _BUCKETS,
        )
        self.decode = self.histogram(
            "aloraserve_decode_seconds", "Time from a call's first token to its last.", ["kind"], _BUCKETS
        )
        self.stalls = self.counter(
            "aloraserve_engine_stalls_total", "Engines under this replica's label that hung, and were replaced."
        )


class _Reading(NamedTuple):
    """A metric that is read off when it is asked for."""

    name: str
    documentation: str
    value: Callable[[Any], float]


_LOAD: Sequence[_Reading] = (
    _Reading("aloraserve_running_requests", "Requests whose first token is out.", lambda load: load.running),
    _Reading(
        "aloraserve_waiting_requests", "Accepted requests whose first token is not out.", lambda load: load.waiting
    ),
    _Reading(
        "aloraserve_queued_prefill_tokens",
        "Tokens of waiting requests that are neither prefilled nor cached.",
        lambda load: load.queued_prefill_tokens,
    ),
    _Reading(
        "aloraserve_queued_prefill_seconds",
        "How long the engine is expected to take for those.",
        lambda load: load.queued_prefill_s,
    ),
    _Reading(
        "aloraserve_kv_usage_ratio", "Share of KV blocks that running requests use, 0 to 1.", lambda load: load.kv_usage
    ),
    _Reading("aloraserve_kv_capacity_tokens", "Tokens that the KV cache has room for.", lambda load: load.kv_tokens),
    _Reading(
        "aloraserve_kv_active_tokens",
        "Tokens of accepted requests, prompt and answer so far.",
        lambda load: load.running_tokens,
    ),
    _Reading(
        "aloraserve_prefill_tokens_per_second",
        "Prefill rate as last measured on a request that ran alone.",
        lambda load: load.prefill_tokens_per_s,
    ),
)
_STATE: Sequence[_Reading] = (
    _Reading("aloraserve_held_blocks", "KV blocks that the replica holds.", lambda state: state.held_blocks),
    _Reading("aloraserve_resident_adapters", "Adapters that are loaded.", lambda state: len(state.resident)),
    _Reading("aloraserve_active_adapters", "Adapters of accepted requests.", lambda state: len(state.active_adapters)),
)
_INGEST: Sequence[_Reading] = (
    _Reading("aloraserve_ingest_events", "Engine events taken in.", lambda stats: stats.events),
    _Reading("aloraserve_ingest_gaps", "Times that engine events were lost.", lambda stats: stats.gaps),
    _Reading(
        "aloraserve_ingest_overflows", "Times that too many changes waited to be pushed.", lambda stats: stats.overflows
    ),
    _Reading("aloraserve_ingest_pushes", "Pushes that the directory took.", lambda stats: stats.pushes),
    _Reading("aloraserve_ingest_push_failures", "Pushes that it did not take.", lambda stats: stats.push_failures),
    _Reading(
        "aloraserve_ingest_heartbeat_failures",
        "Heartbeats that the directory did not take.",
        lambda stats: stats.heartbeat_failures,
    ),
    _Reading(
        "aloraserve_ingest_republishes", "Times that everything held was pushed again.", lambda stats: stats.republishes
    ),
    _Reading(
        "aloraserve_ingest_reclaimed",
        "Directory entries of replicas that are gone, freed.",
        lambda stats: stats.reclaimed,
    ),
)
_PENDING = ("aloraserve_ingest_pending", "Changes that wait to be pushed.")
_DROPS = ("aloraserve_ingest_dropped_events", "Engine events that could not be placed, by cause.")
_SILENCE = ("aloraserve_directory_silence_seconds", "Time since the directory last took a heartbeat: its staleness.")
_LEASE = ("aloraserve_lease_alive", "Whether that is within the lease, 1 or 0.")


class ReplicaReadings(Collector):
    """Reads a replica's last published state and its ingest's counts when it is scraped.

    Scrapes come on another thread: only what is never changed in place, or is one number, is read.

    Args:
        adapters: names what is loaded.
        clock: seconds that never go back.
    """

    def __init__(self, adapters: AdapterMetrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._adapters = adapters
        self._clock = clock
        self._state = ReplicaState("", "")
        self._taken_at = clock()
        self._ingest: Ingest | None = None
        self._mirror: Mirror | None = None

    def watch(self, ingest: Ingest, mirror: Mirror) -> None:
        """Read these from now on."""
        self._ingest, self._mirror = ingest, mirror

    def publishing(self, state: ReplicaState) -> None:
        """Note a state, whether the directory will take it or not."""
        self._state = state

    def published(self) -> None:
        """Note that the directory took it."""
        self._taken_at = self._clock()

    def describe(self) -> Iterable[Metric]:
        """Return all families without samples."""
        loads = [GaugeMetricFamily(reading.name, reading.documentation) for reading in (*_LOAD, *_STATE)]
        counts = [CounterMetricFamily(reading.name, reading.documentation) for reading in _INGEST]
        return [
            *loads,
            *counts,
            GaugeMetricFamily(*_PENDING),
            CounterMetricFamily(*_DROPS, labels=["cause"]),
            GaugeMetricFamily(*_SILENCE),
            GaugeMetricFamily(*_LEASE),
            self._adapters.family(),
        ]

    def collect(self) -> Iterable[Metric]:
        """Return all families as they are."""
        yield from _gauges(_LOAD, self._state.load)
        yield from _gauges(_STATE, self._state)
        silence_s = self._clock() - self._taken_at
        yield GaugeMetricFamily(*_SILENCE, value=silence_s)
        yield GaugeMetricFamily(*_LEASE, value=float(silence_s < LEASE_TTL_S))
        yield self._adapters.family(self._state)
        if self._ingest is not None and self._mirror is not None:
            yield from _counters(_INGEST, self._ingest.stats)
            yield GaugeMetricFamily(*_PENDING, value=self._ingest.pending)
            yield _drops(self._mirror)


class StateWatcher(DirectoryWrapper):
    """A directory that shows the readings each state that is published.

    Args:
        directory: behind it.
        readings: what is shown.
    """

    def __init__(self, directory: Directory, readings: ReplicaReadings) -> None:
        super().__init__(directory)
        self._readings = readings

    async def publish(self, state: ReplicaState, *, ttl_s: float = LEASE_TTL_S, settled: Sequence[str] = ()) -> None:
        """See the contract."""
        self._readings.publishing(state)
        await super().publish(state, ttl_s=ttl_s, settled=settled)
        self._readings.published()


def _gauges(readings: Sequence[_Reading], source: ReplicaLoad | ReplicaState) -> Iterable[Metric]:
    return [
        GaugeMetricFamily(reading.name, reading.documentation, value=float(reading.value(source)))
        for reading in readings
    ]


def _counters(readings: Sequence[_Reading], source: IngestStats) -> Iterable[Metric]:
    return [
        CounterMetricFamily(reading.name, reading.documentation, value=float(reading.value(source)))
        for reading in readings
    ]


def _drops(mirror: Mirror) -> Metric:
    family = CounterMetricFamily(*_DROPS, labels=["cause"])
    for cause, count in asdict(mirror.drops).items():
        family.add_metric([cause], count)
    return family
