"""What browsers and caches are told, and which sites' pages may call."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from aloraserve.errors import SettingsError
from aloraserve.settings import Settings, load_settings
from aloraserve.telemetry.tracing import Tracing
from aloraserve_services.gateway.answer_headers import EVENTS, fixed_headers, for_origins
from aloraserve_services.gateway.metrics import GatewayMetrics
from aloraserve_services.gateway.middleware import CountedRequests
from aloraserve_services.gateway.routes import Routes

SITE, OTHER = "https://app.example", "https://evil.example"
METRICS = GatewayMetrics(CollectorRegistry())


def client(**changes: Any) -> httpx.AsyncClient:
    async def answer(request: Request) -> Response:
        return PlainTextResponse("ok")

    async def events(request: Request) -> Response:
        return Response("data: 1\n\n", media_type="text/event-stream", headers=EVENTS)

    async def page(request: Request) -> Response:
        return HTMLResponse("<p>", headers={"Content-Security-Policy": "default-src 'self'"})

    async def failing(request: Request) -> Response:
        raise KeyError("unforeseen")

    routes = Routes()
    for path, handler in (("/v1/models", answer), ("/events", events), ("/page", page), ("/failing", failing)):
        routes.add("GET", path, handler)
    settings = Settings(**changes)
    app = CountedRequests(for_origins(routes, settings), routes.endpoint, METRICS, Tracing(), fixed_headers(settings))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@pytest.mark.parametrize(("path", "status"), [("/v1/models", 200), ("/nothing", 404), ("/failing", 500)])
async def test_every_answer_says_what_it_is_not(path: str, status: int) -> None:
    answer = await client().get(path)
    assert answer.status_code == status
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert "strict-transport-security" not in answer.headers


async def test_what_a_handler_chose_stays_and_is_there_once() -> None:
    events = await client().get("/events")
    assert events.headers.get_list("cache-control") == ["no-cache"]
    assert events.headers["x-accel-buffering"] == "no"
    assert (await client().get("/page")).headers.get_list("content-security-policy") == ["default-src 'self'"]


async def test_browsers_are_bound_to_tls_where_that_is_set(tmp_path: Any) -> None:
    tls = {"tls_certificate": tmp_path / "tls.crt", "tls_key": tmp_path / "tls.key"}
    answer = await client(hsts_max_age_s=86400, **tls).get("/v1/models")
    assert answer.headers["strict-transport-security"] == "max-age=86400"


async def preflight(caller: httpx.AsyncClient, origin: str) -> httpx.Response:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,x-stainless-os"}
    return await caller.options("/v1/models", headers={"Origin": origin, **asked})


async def test_no_site_may_call_by_default() -> None:
    assert (await preflight(client(), SITE)).status_code == 405
    assert "access-control-allow-origin" not in (await client().get("/v1/models", headers={"Origin": SITE})).headers


async def test_a_named_site_may_call_with_a_key_and_no_other_may() -> None:
    caller = client(cors_origins=[SITE])
    allowed = await preflight(caller, SITE)
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, SITE)
    assert "authorization" in allowed.headers["access-control-allow-headers"]
    assert "origin" in allowed.headers["vary"].lower()
    refused = await preflight(caller, OTHER)
    assert (refused.status_code, refused.headers.get("access-control-allow-origin")) == (400, None)
    read = await caller.get("/v1/models", headers={"Origin": SITE})
    assert (read.headers["access-control-allow-origin"], read.headers["vary"]) == (SITE, "Origin")
    assert "access-control-allow-origin" not in (await caller.get("/v1/models", headers={"Origin": OTHER})).headers
    assert all("access-control-allow-credentials" not in answer.headers for answer in (allowed, refused, read))


async def test_any_site_may_call_only_where_keys_are_needed_and_without_cookies() -> None:
    caller = client(cors_origins=["*"], api_keys={"acme": "k" * 16})
    answer = await caller.get("/v1/models", headers={"Origin": OTHER, "Cookie": "session=1"})
    assert "access-control-allow-credentials" not in answer.headers
    with pytest.raises(SettingsError, match="cors_origins is \\*: every web page could use"):
        load_settings(cors_origins=["*"])


@pytest.mark.parametrize(
    "origin",
    ["app.example", "https://app.example/", "https://app.example/path", "null", "https://*.example", "ftp://a"],
)
def test_what_is_not_an_origin_is_refused_by_name(origin: str) -> None:
    with pytest.raises(SettingsError, match=r"cors_origins.*is not an origin; https://host"):
        load_settings(cors_origins=[origin])


def test_hsts_without_tls_is_refused() -> None:
    with pytest.raises(SettingsError, match="hsts_max_age_s needs tls_certificate"):
        load_settings(hsts_max_age_s=1)
