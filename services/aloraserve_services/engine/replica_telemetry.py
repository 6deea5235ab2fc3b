"""A replica as it is seen from outside: metrics and spans around its engine and its directory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, cast

from prometheus_client import REGISTRY

from aloraserve.directory.base import Directory
from aloraserve.directory.ingest import Ingest
from aloraserve.directory.mirror import Mirror
from aloraserve.serving.engine_messages import EngineCall, EngineChunk, EngineReply
from aloraserve.telemetry.directory import DirectoryMetrics, ObservedDirectory
from aloraserve.telemetry.logs import bind_request
from aloraserve.telemetry.process import ObservedProcess
from aloraserve.telemetry.replica import ReplicaMetrics, ReplicaReadings, StateWatcher
from aloraserve.telemetry.tracing import TRACING, Value, now_s, trace_id
from aloraserve_services.engine.base import Engine
from aloraserve_services.plan import FleetPlan

ROLE = "engine"


class ReplicaTelemetry:
    """What a replica wraps its parts in.

    Args:
        plan: the fleet's.
        label: the replica's short name.
    """

    def __init__(self, plan: FleetPlan, label: str) -> None:
        self._kinds = {one.name: str(one.kind) for one in plan.adapters}
        self._process = ObservedProcess(plan.settings, ROLE, label, node_ip)
        self._endpoints = plan.open_endpoints()
        self._metrics = ReplicaMetrics(REGISTRY)
        self._calls = DirectoryMetrics(REGISTRY)
        self._readings = ReplicaReadings(self._metrics)
        if plan.settings.metrics:
            REGISTRY.register(self._readings)
        else:
            self._metrics.turn_off()
            self._calls.turn_off()

    def directory(self, directory: Directory) -> Directory:
        """Return the directory with its calls timed and what is published read."""
        return StateWatcher(ObservedDirectory(directory, self._calls), self._readings)

    def engine(self, engine: Engine) -> Engine:
        """Return the engine with its calls timed and traced."""
        return cast(Engine, ObservedEngine(engine, self._metrics, self._kinds))

    def watch(self, ingest: Ingest, mirror: Mirror) -> None:
        """Show these in the metrics."""
        self._readings.watch(ingest, mirror)

    async def keep_registered(self) -> None:
        """Keep this replica in the list of processes with metrics, until cancelled."""
        await self._process.keep_registered(self._endpoints)


@dataclass(slots=True)
class _Times:
    """When a call came, on two clocks, and how far it got."""

    arrived_at: float
    arrived_s: float
    queue_s: float = 0.0
    first_s: float = 0.0
    last_s: float = 0.0
    tokens: int = 0
    finish: str = "cancelled"

    def since(self) -> float:
        return time.perf_counter() - self.arrived_at


class ObservedEngine:
    """See :class:`~aloraserve_services.engine.base.Engine`; each call leaves its times behind.

    Args:
        engine: that generates.
        metrics: the replica's.
        kinds: of each adapter.
    """

    def __init__(self, engine: Engine, metrics: ReplicaMetrics, kinds: dict[str, str]) -> None:
        self._engine = engine
        self._metrics = metrics
        self._kinds = kinds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(self, call: EngineCall) -> AsyncGenerator[EngineReply]:
        """See the contract."""
        bind_request(call.request_id, trace_id(call.traceparent))
        times = _Times(time.perf_counter(), now_s())
        replies = cast("AsyncGenerator[EngineReply]", self._engine.generate(call))
        try:
            async with contextlib.aclosing(replies):
                async for reply in replies:
                    if isinstance(reply, EngineChunk):
                        self._note(call, times, reply)
                    yield reply
        finally:
            if times.tokens:
                self._ended(call, times)

    def _note(self, call: EngineCall, times: _Times, chunk: EngineChunk) -> None:
        times.last_s = times.since()
        if not times.tokens:
            times.first_s = times.last_s
            # On the way to the engine and back a call waits as well.
            times.queue_s = max(0.0, times.first_s - chunk.prefill_s)
            kind = self._kind(call)
            self._metrics.queue.labels(kind).observe(times.queue_s)
            self._metrics.prefill.labels(kind).observe(times.first_s - times.queue_s)
            self._trace_prefill(call, times, chunk)
        times.tokens += max(chunk.tokens, 1)
        times.finish = chunk.finish_reason or times.finish

    def _ended(self, call: EngineCall, times: _Times) -> None:
        self._metrics.decode.labels(self._kind(call)).observe(times.last_s - times.first_s)
        if call.traceparent is not None:
            TRACING.record(
                "decode",
                times.arrived_s + times.first_s,
                times.arrived_s + times.last_s,
                {"aloraserve.generated_tokens": times.tokens, "aloraserve.finish_reason": times.finish},
                call.traceparent,
            )

    def _trace_prefill(self, call: EngineCall, times: _Times, chunk: EngineChunk) -> None:
        if call.traceparent is None:
            return
        begun_s = times.arrived_s + times.queue_s
        TRACING.record("queue", times.arrived_s, begun_s, {}, call.traceparent)
        tokens: dict[str, Value] = {
            "aloraserve.prompt_tokens": len(call.token_ids),
            "aloraserve.cached_tokens": chunk.cached_tokens,
            "aloraserve.kind": self._kind(call),
            "aloraserve.adapter": call.adapter or "",
        }
        TRACING.record("prefill", begun_s, times.arrived_s + times.first_s, tokens, call.traceparent)

    def _kind(self, call: EngineCall) -> str:
        return "base" if call.adapter is None else self._kinds.get(call.adapter, "other")


def node_ip() -> str:
    """Return this node's address, as Ray knows it."""
    from ray.util import get_node_ip_address

    return str(get_node_ip_address())
