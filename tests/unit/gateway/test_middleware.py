"""Every request is counted once, whatever became of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from support.grpc_caller import served

from aloraserve.telemetry.tracing import Tracing
from aloraserve_services.gateway.deployment import Gateway
from aloraserve_services.gateway.metrics import GatewayMetrics
from aloraserve_services.gateway.middleware import CountedRequests
from aloraserve_services.gateway.routes import Routes


def routes_of(gateway: Gateway) -> Routes:
    """Return all routes of a gateway."""
    routes = Routes()
    for part in gateway._http_parts():
        part.add_to(routes)
    return routes


METRICS = GatewayMetrics(CollectorRegistry())


@pytest.fixture
def client() -> httpx.AsyncClient:
    async def fine(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    async def failing(request: Request) -> PlainTextResponse:
        raise KeyError("a secret")

    async def breaking_off(request: Request) -> StreamingResponse:
        def parts() -> Iterator[str]:
            yield "a"
            raise KeyError("a secret")

        return StreamingResponse(parts())

    routes = Routes()
    for path, handler in (("/healthz", fine), ("/readyz", failing), ("/v1/savings", breaking_off)):
        routes.add("GET", path, handler)
    app = CountedRequests(routes, routes.endpoint, METRICS, Tracing())
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def counted(endpoint: str, status: str) -> float:
    return (
        METRICS.registry.get_sample_value("aloraserve_requests_total", {"endpoint": endpoint, "status": status}) or 0.0
    )


async def test_a_request_is_counted_by_endpoint_and_status(client: httpx.AsyncClient) -> None:
    before = counted("/healthz", "200"), counted("other", "404")
    await client.get("/healthz")
    await client.get("/some/path")
    assert (counted("/healthz", "200"), counted("other", "404")) == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [
        ("/v1/intrinsics", "/v1/intrinsics"),
        ("/v1/receipts", "/v1/receipts"),
        ("/v1/receipts/some-id", "/v1/receipts"),
        ("/v1/models/safety", "/v1/models"),
        ("/v1/models/org/model", "/v1/models"),
        ("/v1/admin/tenants/acme", "/v1/admin/tenants"),
        ("/v1/admin/keys/some-id/rotate", "/v1/admin/keys"),
        ("/v1/admin/shared-prefixes/rules", "/v1/admin/shared-prefixes"),
        ("/docs/swagger-ui.css", "/docs"),
        ("/v1/adapters/safety/aliases/prod", "/v1/adapters"),
        ("/v1/adapters-of-mine", "other"),
        ("/v1/load_lora_adapter", "/v1/load_lora_adapter"),
        ("/version", "/version"),
    ],
)
def test_every_endpoint_has_a_label_and_no_client_makes_one(
    open_gateway: Callable[..., Gateway], path: str, endpoint: str
) -> None:
    assert routes_of(open_gateway()).endpoint(path).label == endpoint


async def test_whatever_needs_room_for_a_call_is_a_call(open_gateway: Callable[..., Gateway]) -> None:
    """It has a span and counts as in progress: a route that takes calls is not left out of either."""
    gateway = open_gateway()
    routes = routes_of(gateway)
    paths = [path.replace("{}", "x").replace("{name}", "x") for path, method in routes.listed() if method == "POST"]
    transport = httpx.ASGITransport(gateway.http_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        await gateway.slots.drain(0)
        refused = {path for path in paths if "about to stop" in (await client.post(path, json={})).text}
    assert refused == {path for path in paths if routes.endpoint(path).is_call}
    assert refused == {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/intrinsics"}


async def test_calls_alone_have_spans_over_both_transports(open_gateway: Callable[..., Gateway]) -> None:
    gateway = open_gateway(max_model_len=512)
    kept = Kept()
    gateway._tracing.use(kept, "test", "test")
    transport = httpx.ASGITransport(gateway.http_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/intrinsics", "/v1/adapters"):
            await client.post(path, json={})
    methods = ["Inference/Chat", "Inference/CompleteStream", "Intrinsics/Run", "Adapters/List"]
    async with served(gateway.grpc_edge()) as caller:
        for method in methods:
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for _ in caller.stream(method, b"\xff"):
                    pass
    gateway._tracing.flush()
    routes = [span.attributes["http.route"] for span in kept.spans if span.attributes and span.name == "request"]
    assert routes == [
        *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/intrinsics"),
        *(f"/aloraserve.v1.{method}" for method in methods[:-1]),
    ]
    assert gateway.metrics.registry.get_sample_value("aloraserve_requests_in_progress") == 0


async def test_what_nobody_caught_is_a_counted_500_that_discloses_nothing(client: httpx.AsyncClient) -> None:
    before = counted("/readyz", "500")
    answer = await client.get("/readyz")
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "internal_error"
    assert "secret" not in answer.text
    assert counted("/readyz", "500") == before + 1


async def test_an_answer_that_breaks_off_is_counted_once(client: httpx.AsyncClient) -> None:
    before = counted("/v1/savings", "200"), counted("/v1/savings", "500")
    with pytest.raises(KeyError):
        await client.get("/v1/savings")
    assert (counted("/v1/savings", "200"), counted("/v1/savings", "500")) == (before[0] + 1, before[1])


class Kept(SpanExporter):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See OpenTelemetry."""
        self.spans += spans
        return SpanExportResult.SUCCESS


async def test_only_whoever_may_call_makes_spans(open_gateway: Callable[..., Any]) -> None:
    gateway = open_gateway(api_keys={"acme": "a-tenant-s-key-0001"})
    kept = Kept()
    gateway._tracing.use(kept, "test", "test")
    transport = httpx.ASGITransport(gateway.http_app())
    forced = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for key in (None, "Bearer wrong", "Bearer a-tenant-s-key-0001"):
            headers = forced | ({"authorization": key} if key else {})
            await client.post("/v1/completions", json={"model": "nobody", "prompt": "hi"}, headers=headers)
    gateway._tracing.flush()
    assert [span.attributes["http.response.status_code"] for span in kept.spans if span.attributes] == [404]
