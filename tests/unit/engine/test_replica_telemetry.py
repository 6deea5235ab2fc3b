"""An engine and its calls, seen from outside."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from aloraserve.serving.engine_messages import EngineCall, EngineChunk, EngineRefusal, EngineReply
from aloraserve.telemetry.replica import ReplicaMetrics
from aloraserve.wire.sampling import SamplingSettings
from aloraserve_services.engine import replica_telemetry
from aloraserve_services.engine.replica_telemetry import ObservedEngine

ABOVE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def call(adapter: str | None = None, traceparent: str | None = ABOVE) -> EngineCall:
    return EngineCall("r", [1] * 40, SamplingSettings(), adapter=adapter, traceparent=traceparent)


class Clock:
    """Stands for the module ``time``."""

    now = 50.0

    def perf_counter(self) -> float:
        return self.now


class Engine:
    """Gives each reply when its time has come."""

    def __init__(self, clock: Clock, *replies: tuple[float, EngineReply]) -> None:
        self._clock = clock
        self._replies = replies
        self.is_closed = False
        self.kv_usage = 0.5

    async def generate(self, call: EngineCall) -> AsyncIterator[EngineReply]:
        try:
            for at, reply in self._replies:
                self._clock.now = at
                yield reply
        finally:
            self.is_closed = True


class Spans(list[tuple[str, float, float, dict[str, Any], str | None]]):
    is_on = True

    def record(self, *span: Any) -> None:
        self.append(span)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(replica_telemetry, "time", clock)
    monkeypatch.setattr(replica_telemetry, "now_s", lambda: 1000.0)
    return clock


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    spans = Spans()
    monkeypatch.setattr(replica_telemetry, "TRACING", spans)
    return spans


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def seen(engine: Engine, registry: CollectorRegistry) -> ObservedEngine:
    return ObservedEngine(engine, ReplicaMetrics(registry), {"safety": "alora"})  # type: ignore[arg-type]


def seconds(registry: CollectorRegistry, phase: str, kind: str) -> float | None:
    return registry.get_sample_value(f"aloraserve_{phase}_seconds_sum", {"kind": kind})


WHOLE = (
    (51.0, EngineChunk(0, "x", 1, cached_tokens=32, prefill_s=0.75)),
    (51.5, EngineChunk(0, "yz", 2)),
    (53.0, EngineChunk(0, "", 1, "length")),
)


async def test_a_call_waits_is_prefilled_and_decoded(clock: Clock, spans: Spans, registry: CollectorRegistry) -> None:
    engine = seen(Engine(clock, *WHOLE), registry)
    assert len([reply async for reply in engine.generate(call("safety"))]) == 3
    assert [seconds(registry, phase, "alora") for phase in ("queue", "prefill", "decode")] == [0.25, 0.75, 2.0]
    assert [(name, begin, end) for name, begin, end, _, _ in spans] == [
        ("queue", 1000.0, 1000.25),
        ("prefill", 1000.25, 1001.0),
        ("decode", 1001.0, 1003.0),
    ]
    assert {above for *_, above in spans} == {ABOVE}
    assert spans[1][3]["aloraserve.cached_tokens"] == 32
    assert spans[2][3] == {"aloraserve.generated_tokens": 4, "aloraserve.finish_reason": "length"}


async def test_what_is_not_traced_leaves_no_span_and_is_measured(
    clock: Clock, spans: Spans, registry: CollectorRegistry
) -> None:
    engine = seen(Engine(clock, *WHOLE), registry)
    assert len([reply async for reply in engine.generate(call(traceparent=None))]) == 3
    assert spans == []
    assert seconds(registry, "decode", "base") == 2.0


async def test_closing_ends_the_engine_s_own_call_and_the_span_says_so(
    clock: Clock, spans: Spans, registry: CollectorRegistry
) -> None:
    inner = Engine(clock, *WHOLE)
    replies = seen(inner, registry).generate(call())
    await anext(replies)
    await replies.aclose()
    assert inner.is_closed
    assert spans[-1][3]["aloraserve.finish_reason"] == "cancelled"


async def test_a_refusal_is_no_prefill(clock: Clock, spans: Spans, registry: CollectorRegistry) -> None:
    engine = seen(Engine(clock, (51.0, EngineRefusal("no"))), registry)
    assert [reply async for reply in engine.generate(call())] == [EngineRefusal("no")]
    assert (list(spans), seconds(registry, "prefill", "base")) == ([], None)


def test_all_else_is_the_engine_s(clock: Clock, registry: CollectorRegistry) -> None:
    inner = Engine(clock)
    engine: Any = seen(inner, registry)
    inner.kv_usage = 0.75
    assert engine.kv_usage == 0.75
