"""A collector of spans that keeps them: OTLP over gRPC, as OpenTelemetry's own definitions have it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True)
class Span:
    """What a test looks at of a span."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    begin_ns: int
    end_ns: int
    service: str
    instance: str
    attributes: dict[str, Any]


@dataclass
class Receiver:
    """Keeps what came.

    Attributes:
        endpoint: for exporters.
    """

    endpoint: str
    spans: list[Span] = field(default_factory=list)

    def trace(self, trace_id: str, names: set[str], timeout_s: float = 20) -> list[Span]:
        """Return a trace's spans as soon as all of ``names`` are among them."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = [span for span in list(self.spans) if span.trace_id == trace_id]
            if names <= {span.name for span in found}:
                return found
            assert time.monotonic() < deadline, f"after {timeout_s:g} s there are only {[one.name for one in found]}"
            time.sleep(0.05)


class _Service(trace_service_pb2_grpc.TraceServiceServicer):  # type: ignore[misc]
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        for resource in request.resource_spans:
            of = _attributes(resource.resource.attributes)
            for scope in resource.scope_spans:
                self._receiver.spans += [_span(one, of) for one in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


def _span(span: Any, resource: dict[str, Any]) -> Span:
    return Span(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        resource["service.name"],
        resource["service.instance.id"],
        _attributes(span.attributes),
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in pairs}


@contextlib.contextmanager
def otlp_receiver() -> Iterator[Receiver]:
    """Receive spans on a free port of this machine."""
    server = grpc.server(ThreadPoolExecutor(2))
    port = server.add_insecure_port("127.0.0.1:0")
    receiver = Receiver(f"http://127.0.0.1:{port}")
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Service(receiver), server)
    server.start()
    try:
        yield receiver
    finally:
        server.stop(None)
