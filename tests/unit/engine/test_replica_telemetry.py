"""Calls of an engine, seen from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from aloraserve.adapters import AdapterKind, AdapterRef
from aloraserve.serving.engine_messages import EngineCall, EngineChunk
from aloraserve.settings import Settings
from aloraserve.telemetry.memory_endpoints import MemoryEndpoints
from aloraserve.telemetry.replica_metrics import ReplicaMetrics
from aloraserve.telemetry.tracing import Tracing
from aloraserve.wire.sampling import SamplingSettings
from aloraserve_services.engine.replica_telemetry import CallTimes, ReplicaTelemetry

ABOVE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Spans(list[tuple[str, float, float, dict[str, Any], str | None]]):
    """Takes spans as a process's tracing does."""

    def record(self, *span: Any) -> None:
        self.append(span)


class Calls:
    """Calls of a replica, in which time passes as the chunks say."""

    def __init__(self) -> None:
        self.now = 50.0
        self.registry = CollectorRegistry()
        self.spans = Spans()
        self._metrics = ReplicaMetrics(self.registry)

    def follow(self, *chunks: tuple[float, EngineChunk], kind: str = "base", traceparent: str | None = ABOVE) -> None:
        """Follow a call to its end; each chunk comes at its time."""
        adapter = None if kind == "base" else AdapterRef("safety", cast(AdapterKind, kind), "digest")
        call = EngineCall("r", [1] * 40, SamplingSettings(), adapter=adapter, traceparent=traceparent)
        times = CallTimes(call, self._metrics, cast(Tracing, self.spans), clock=lambda: self.now, date=lambda: 1000.0)
        for at, chunk in chunks:
            self.now = at
            times.chunk(chunk)
        times.end()

    def seconds(self, phase: str, kind: str) -> float | None:
        return self.registry.get_sample_value(f"aloraserve_{phase}_seconds_sum", {"kind": kind})


@pytest.fixture
def calls() -> Calls:
    return Calls()


WHOLE = (
    (51.0, EngineChunk(0, "x", 1, cached_tokens=32, prefill_s=0.75)),
    (51.5, EngineChunk(0, "yz", 2)),
    (53.0, EngineChunk(0, "", 1, "length")),
)


def test_a_call_waits_is_prefilled_and_decoded(calls: Calls) -> None:
    calls.follow(*WHOLE, kind="alora")
    assert [calls.seconds(phase, "alora") for phase in ("queue", "prefill", "decode")] == [0.25, 0.75, 2.0]
    assert [(name, begin, end) for name, begin, end, _, _ in calls.spans] == [
        ("queue", 1000.0, 1000.25),
        ("prefill", 1000.25, 1001.0),
        ("decode", 1001.0, 1003.0),
    ]
    assert {above for *_, above in calls.spans} == {ABOVE}
    assert calls.spans[1][3]["aloraserve.cached_tokens"] == 32
    assert calls.spans[2][3] == {"aloraserve.generated_tokens": 4, "aloraserve.finish_reason": "length"}


def test_what_is_not_traced_leaves_no_span_and_is_measured(calls: Calls) -> None:
    calls.follow(*WHOLE, traceparent=None)
    assert calls.spans == []
    assert calls.seconds("decode", "base") == 2.0


def test_the_span_of_a_call_that_was_closed_says_so(calls: Calls) -> None:
    calls.follow(WHOLE[0])
    assert calls.spans[-1][3]["aloraserve.finish_reason"] == "cancelled"


def test_a_refusal_is_not_a_prefill(calls: Calls) -> None:
    calls.follow()
    assert (list(calls.spans), calls.seconds("prefill", "base")) == ([], None)


def test_a_call_s_kind_is_its_adapter_s() -> None:
    registry = CollectorRegistry()
    telemetry = ReplicaTelemetry(
        Settings(metrics_port=0),
        "engine-0",
        lambda: "127.0.0.1",
        MemoryEndpoints(),
        registry,
        Tracing(),
    )
    for adapter in (None, AdapterRef("safety", "alora", "digest"), AdapterRef("plain", "lora", "digest")):
        times = telemetry.begin_call(EngineCall("r", [1] * 40, SamplingSettings(), adapter=adapter))
        times.chunk(EngineChunk(0, "x", 1))
        times.end()
    for kind in ("base", "alora", "lora"):
        assert registry.get_sample_value("aloraserve_decode_seconds_count", {"kind": kind}) == 1


@pytest.mark.parametrize("damage", [None, b"many", b"9" * 40])
def test_hung_engines_are_counted_over_the_processes_that_end_with_them(tmp_path: Path, damage: bytes | None) -> None:
    def started() -> tuple[ReplicaTelemetry, CollectorRegistry]:
        registry = CollectorRegistry()
        settings = Settings(metrics_port=0, state_dir=tmp_path)
        made = ReplicaTelemetry(settings, "engine-0", lambda: "127.0.0.1", MemoryEndpoints(), registry, Tracing())
        return made, registry

    for earlier in range(2):
        replica, registry = started()
        assert registry.get_sample_value("aloraserve_engine_stalls_total") == earlier
        replica.stalled()
        assert registry.get_sample_value("aloraserve_engine_stalls_total") == earlier + 1
    if damage is not None:
        (tmp_path / "engine-stalls" / "default-engine-0").write_bytes(damage)
    _, registry = started()
    assert registry.get_sample_value("aloraserve_engine_stalls_total") == (2 if damage is None else 0)
