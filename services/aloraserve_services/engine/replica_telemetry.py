"""A replica as it is seen from outside: metrics and spans of its calls and of its directory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry

from aloraserve.directory.base import Directory
from aloraserve.directory.ingest import Ingest
from aloraserve.directory.mirror import Mirror
from aloraserve.serving.engine_messages import EngineCall, EngineChunk
from aloraserve.settings import Settings
from aloraserve.telemetry.adapter_metrics import AdapterMetrics
from aloraserve.telemetry.directory import DirectoryMetrics, ObservedDirectory
from aloraserve.telemetry.endpoints import EndpointRegistry
from aloraserve.telemetry.logs import bind_request
from aloraserve.telemetry.process import ObservedProcess
from aloraserve.telemetry.replica_metrics import ReplicaMetrics, ReplicaReadings, StateWatcher
from aloraserve.telemetry.tracing import Tracing, Value, now_s, trace_id
from aloraserve_services.engine.kept_count import KeptCount

ROLE = "engine"


class ReplicaTelemetry:
    """Instruments that a replica is followed with.

    Args:
        settings: of the platform.
        label: the replica's short name.
        node_ip: returns this node's address, as other nodes reach it.
        endpoints: where processes with metrics are listed.
        registry: where the replica's metrics are registered.
        tracing: of this process.

    Attributes:
        adapters: to be told what becomes of the engine's adapters.
    """

    def __init__(
        self,
        settings: Settings,
        label: str,
        node_ip: Callable[[], str],
        endpoints: EndpointRegistry,
        registry: CollectorRegistry,
        tracing: Tracing,
    ) -> None:
        self._tracing = tracing
        self._endpoints = endpoints
        self._process = ObservedProcess(settings, ROLE, label, node_ip, tracing)
        self._metrics = ReplicaMetrics(registry)
        self._stalls = KeptCount(settings.state_dir / "engine-stalls" / f"{settings.namespace}-{label}")
        self._calls = DirectoryMetrics(registry)
        self.adapters = AdapterMetrics(registry)
        self._readings = ReplicaReadings(self.adapters)
        if settings.metrics:
            registry.register(self._readings)
        else:
            self._metrics.turn_off()
            self._calls.turn_off()
            self.adapters.turn_off()
        # Of those before this one, which ended with what they had counted.
        self._metrics.stalls.inc(self._stalls.value)

    def stalled(self) -> None:
        """Count that this replica's engine hangs; its process ends soon."""
        self._stalls.add()
        self._metrics.stalls.inc()

    def directory(self, directory: Directory) -> Directory:
        """Return the directory with its calls timed and what is published read."""
        return StateWatcher(ObservedDirectory(directory, self._calls), self._readings)

    def begin_call(self, call: EngineCall) -> CallTimes:
        """Follow a call that has just arrived."""
        return CallTimes(call, self._metrics, self._tracing)

    def watch(self, ingest: Ingest, mirror: Mirror) -> None:
        """Show these in the metrics."""
        self._readings.watch(ingest, mirror)

    async def keep_registered(self) -> None:
        """Keep this replica in the list of processes with metrics, until cancelled."""
        await self._process.keep_registered(self._endpoints)


class CallTimes:
    """When a call came, on two clocks, and how far it got; see :class:`~aloraserve_services.engine.host.ObservedCall`.

    Args:
        call: just arrived.
        metrics: of the replica.
        tracing: of this process.
        clock: seconds that never go back.
        date: seconds since 1970.
    """

    def __init__(
        self,
        call: EngineCall,
        metrics: ReplicaMetrics,
        tracing: Tracing,
        *,
        clock: Callable[[], float] = time.perf_counter,
        date: Callable[[], float] = now_s,
    ) -> None:
        bind_request(call.request_id, trace_id(call.traceparent))
        self._call = call
        self._kind = "base" if call.adapter is None else call.adapter.kind
        self._metrics = metrics
        self._tracing = tracing
        self._clock = clock
        self._arrived_at, self._arrived_s = clock(), date()
        self._queue_s = self._first_s = self._last_s = 0.0
        self._tokens = 0
        self._finish = "cancelled"

    def chunk(self, chunk: EngineChunk) -> None:
        """Note a chunk; the first one ends the prefill."""
        self._last_s = self._clock() - self._arrived_at
        if not self._tokens:
            self._prefilled(chunk)
        self._tokens += max(chunk.tokens, 1)
        self._finish = chunk.finish_reason or self._finish

    def end(self) -> None:
        """Note the end, however it came; a call without a token leaves nothing behind."""
        if not self._tokens:
            return
        self._metrics.decode.labels(self._kind).observe(self._last_s - self._first_s)
        tokens: dict[str, Value] = {
            "aloraserve.generated_tokens": self._tokens,
            "aloraserve.finish_reason": self._finish,
        }
        self._span("decode", self._first_s, self._last_s, tokens)

    def _prefilled(self, chunk: EngineChunk) -> None:
        self._first_s = self._last_s
        # On the way to the engine and back a call waits as well.
        self._queue_s = max(0.0, self._first_s - chunk.prefill_s)
        self._metrics.queue.labels(self._kind).observe(self._queue_s)
        self._metrics.prefill.labels(self._kind).observe(self._first_s - self._queue_s)
        tokens: dict[str, Value] = {
            "aloraserve.prompt_tokens": len(self._call.token_ids),
            "aloraserve.cached_tokens": chunk.cached_tokens,
            "aloraserve.kind": self._kind,
            "aloraserve.adapter": "" if self._call.adapter is None else self._call.adapter.name,
        }
        self._span("queue", 0.0, self._queue_s, {})
        self._span("prefill", self._queue_s, self._first_s, tokens)

    def _span(self, name: str, begin_s: float, end_s: float, attributes: Mapping[str, Value]) -> None:
        """Leave a span, if the call is traced; both times are seconds from its arrival."""
        traceparent = self._call.traceparent
        if traceparent is not None:
            self._tracing.record(name, self._arrived_s + begin_s, self._arrived_s + end_s, attributes, traceparent)
