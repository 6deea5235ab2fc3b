"""Spans of a request, and nothing without an endpoint."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from aloraserve.telemetry.tracing import Tracing, trace_id

TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENT = f"00-{TRACE}-b7ad6b7169203331-01"


class Kept(SpanExporter):
    """Keeps spans."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Any) -> SpanExportResult:
        self.spans += spans
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """There is nothing to stop."""


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    return Kept()


@pytest.fixture
def tracing(kept: Kept) -> Tracing:
    tracing = Tracing()
    tracing.use(kept, "aloraserve-gateway", "gateway-0")
    return tracing


def done(tracing: Tracing, kept: Kept) -> dict[str, ReadableSpan]:
    tracing.flush()
    return {span.name: span for span in kept.spans}


def test_the_client_s_trace_is_gone_on_from_also_in_another_process(tracing: Tracing, kept: Kept) -> None:
    with tracing.request("/v1/completions", {"traceparent": CLIENT}):
        above = tracing.traceparent()
        tracing.record("decide", 1.0, 1.5, {"policy": "x"})
    assert trace_id(above) == TRACE
    tracing.record("queue", 2.0, 2.5, {}, above)
    spans = done(tracing, kept)
    assert {span.context.trace_id for span in kept.spans if span.context} == {int(TRACE, 16)}
    request = spans["request"].context
    assert request is not None
    for name in ("decide", "queue"):
        parent = spans[name].parent
        assert parent is not None
        assert parent.span_id == request.span_id
    assert (spans["queue"].start_time, spans["queue"].end_time) == (2_000_000_000, 2_500_000_000)


def test_a_request_without_a_trace_begins_one(tracing: Tracing, kept: Kept) -> None:
    with tracing.request("/v1/completions", {"traceparent": "rubbish"}):
        assert trace_id(tracing.traceparent())
    assert done(tracing, kept)["request"].parent is None


def test_a_client_s_choice_not_to_be_traced_is_respected(tracing: Tracing, kept: Kept) -> None:
    with tracing.request("/v1/completions", {"traceparent": CLIENT[:-1] + "0"}):
        tracing.record("decide", 1.0, 1.5, {})
        above = tracing.traceparent()
    tracing.record("queue", 2.0, 2.5, {}, above)
    assert done(tracing, kept) == {}


def test_a_span_has_no_exception_s_text(tracing: Tracing, kept: Kept) -> None:
    with pytest.raises(KeyError), tracing.request("/v1/completions", {}):
        raise KeyError("a zebra")
    span = done(tracing, kept)["request"]
    assert not span.status.is_ok
    assert "zebra" not in span.to_json()


def test_from_500_on_a_request_is_an_error(tracing: Tracing, kept: Kept) -> None:
    for status in (200, 502):
        with tracing.request("/v1/completions", {}):
            tracing.answered(status)
    tracing.flush()
    assert [span.status.is_ok for span in kept.spans] == [True, False]


def test_nothing_is_traced_without_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    tracing = Tracing()
    tracing.start("aloraserve-gateway", "gateway-0", None)
    with tracing.request("/v1/completions", {"traceparent": CLIENT}):
        tracing.record("decide", 1.0, 1.5, {})
        tracing.annotate({"a": 1})
        assert tracing.traceparent() is None
    assert not tracing.is_on


@pytest.mark.parametrize(("protocol", "module"), [("", "grpc"), ("grpc", "grpc"), ("http/protobuf", "http")])
def test_opentelemetry_s_variables_choose_the_way(protocol: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    made: list[SpanExporter] = []
    tracing = Tracing()
    monkeypatch.setattr(tracing, "use", lambda exporter, *_: made.append(exporter))
    tracing.start("aloraserve-gateway", "gateway-0", None)
    assert f".otlp.proto.{module}." in type(made[0]).__module__


def test_an_unknown_protocol_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "smoke")
    with pytest.raises(ValueError, match=r"smoke.*grpc, http/protobuf"):
        Tracing().start("aloraserve-gateway", "gateway-0", "http://127.0.0.1:1")


@pytest.mark.parametrize("given", [None, "", "x", CLIENT + "0", CLIENT.upper(), CLIENT.replace("-", "_")])
def test_what_is_not_a_traceparent_has_no_trace(given: str | None) -> None:
    assert trace_id(given) is None
