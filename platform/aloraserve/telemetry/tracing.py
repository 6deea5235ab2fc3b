"""Spans of a request over all processes that serve it, in OpenTelemetry's terms; nothing unless an endpoint is set.

A call's spans share one trace: ``request`` in the gateway, and below it ``decide``, then ``queue``, ``prefill`` and
``decode`` in the replica that answers. The context travels in W3C's ``traceparent``, from the client's header on.
Attributes say how the call was routed and what it took; never a prompt, a key, a session or a tenant.

What is standard comes from OpenTelemetry's own variables: headers, certificates, protocol, sampler, resource
attributes, limits. Spans wait for export in a bounded queue on a thread of its own; what has no room is dropped.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

Value = str | int | float | bool
ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOL_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
FLUSH_MS = 3000
GRPC, HTTP = "grpc", "http/protobuf"
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_PROPAGATOR = TraceContextTextMapPropagator()


class Tracing:
    """This process's spans; off until :meth:`start`."""

    def __init__(self) -> None:
        self.is_on = False
        self._tracer: trace.Tracer = trace.NoOpTracer()
        self._flush: Callable[[], bool] = lambda: True

    def start(self, service: str, name: str, endpoint: str | None) -> None:
        """Send spans to an OTLP endpoint, if there is one; a second call changes nothing.

        Args:
            service: ``service.name`` of the spans.
            name: ``service.instance.id``.
            endpoint: of a collector; None reads OpenTelemetry's variables.
        """
        if self.is_on or not (endpoint or any(os.environ.get(name) for name in ENDPOINT_VARIABLES)):
            return
        self.use(_exporter(endpoint), service, name)

    def use(self, exporter: SpanExporter, service: str, name: str) -> None:
        """Send spans to an exporter.

        Args:
            exporter: takes batches of spans.
            service: ``service.name`` of the spans.
            name: ``service.instance.id``.
        """
        # Hundreds of modules, which a process without traces does not load.
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create({"service.name": service, "service.instance.id": name})
        provider = TracerProvider(resource=resource)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        self._flush = lambda: provider.force_flush(FLUSH_MS)
        self._tracer = provider.get_tracer("aloraserve")
        self.is_on = True

    def flush(self) -> None:
        """Export what waits, before this process ends; it takes three seconds at most."""
        self._flush()

    @contextlib.contextmanager
    def request(self, endpoint: str, headers: Mapping[str, str]) -> Iterator[None]:
        """Be within the span of an HTTP request.

        Args:
            endpoint: the request's path, without what a client chose.
            headers: its ``traceparent`` and ``tracestate``, if the client sent any.
        """
        if not self.is_on:
            yield
            return
        parent = _PROPAGATOR.extract(headers)
        with self._tracer.start_as_current_span(
            "request",
            parent,
            kind=SpanKind.SERVER,
            attributes={"http.route": endpoint},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except Exception:
                # Without its text, which may quote what the client sent.
                span.set_status(Status(StatusCode.ERROR))
                raise

    def annotate(self, attributes: Mapping[str, Value]) -> None:
        """Add attributes to the current span."""
        if self.is_on:
            trace.get_current_span().set_attributes(dict(attributes))

    def answered(self, status: int) -> None:
        """Note the HTTP status of the current request; one from 500 on is an error."""
        if not self.is_on:
            return
        span = trace.get_current_span()
        span.set_attribute("http.response.status_code", status)
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))

    def record(
        self,
        name: str,
        begin_s: float,
        end_s: float,
        attributes: Mapping[str, Value],
        traceparent: str | None = None,
    ) -> None:
        """Leave a span of what is over.

        Args:
            name: of the span.
            begin_s: seconds since 1970, as the next.
            end_s: not before it.
            attributes: of the span.
            traceparent: of the span above, where that is another process's; None is the current one.
        """
        if not self.is_on:
            return
        above: Context | None = _PROPAGATOR.extract({"traceparent": traceparent}) if traceparent else None
        span = self._tracer.start_span(name, above, attributes=dict(attributes), start_time=_ns(begin_s))
        span.end(_ns(max(begin_s, end_s)))

    def traceparent(self) -> str | None:
        """Return the current span for another process, None without one."""
        if not self.is_on:
            return None
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier)
        return carrier.get("traceparent")


def trace_id(traceparent: str | None) -> str | None:
    """Return the trace id of a ``traceparent``, None if it is none."""
    found = _TRACEPARENT.fullmatch(traceparent or "")
    return found.group(1) if found else None


def now_s() -> float:
    """Return the time that spans are dated by, seconds since 1970."""
    return time.time()


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


def _exporter(endpoint: str | None) -> SpanExporter:
    protocol = next((os.environ[name] for name in PROTOCOL_VARIABLES if os.environ.get(name)), GRPC)
    if protocol not in (GRPC, HTTP):
        raise ValueError(f"the OTLP protocol is {protocol!r}; {GRPC}, {HTTP} are accepted")
    if protocol == HTTP:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        return HttpExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None)
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

    return GrpcExporter(endpoint=endpoint)
