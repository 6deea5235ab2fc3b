"""What a real Prometheus, and a real collector of spans, get from a running platform."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.otlp_receiver import Receiver, Span, otlp_receiver
from support.own_valkey import socket_url, valkey_server
from support.prometheus_server import OBSERVABILITY, Prometheus, prometheus, tool

BASE = "SmolLM2-135M-Instruct"
REPLICAS = 2
VLLM = ("vllm:", "vllm_alora")
# What the gateway counts of a call, and what the engine does: the last of each that a call touches.
COUNTED = ("aloraserve_e2e_seconds_count", "aloraserve_decode_seconds_count")
CALLS = 4
SPANS = {"request", "decide", "queue", "prefill", "decode"}
TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENT_SPAN = "b7ad6b7169203331"
TRACES = {"OTEL_BSP_SCHEDULE_DELAY": "200"}
SCALED_PROCESSES = REPLICAS + 2
"""Engines, a gateway, and the autoscaler in Serve's controller."""
SCALING = {
    "ALORASERVE_AUTOSCALING": "true",
    "ALORASERVE_MIN_REPLICAS": str(REPLICAS),
    "ALORASERVE_MAX_REPLICAS": str(REPLICAS),
    "ALORASERVE_MAX_GATEWAYS": "1",
}

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def _panels() -> Any:
    spec = importlib.util.spec_from_file_location("panels", OBSERVABILITY / "panels.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["panels"] = module
    spec.loader.exec_module(module)
    return module


def queries(is_vllm: bool) -> list[tuple[str, str]]:
    """Return every panel's queries, those of vLLM's metrics or the others, with the panel's name."""
    return [
        (f"{board.title}: {panel.title}", query.expr.replace("$__rate_interval", "2m"))
        for board in _panels().DASHBOARDS
        for panel in board.panels
        for query in panel.queries
        if any(name in query.expr for name in VLLM) == is_vllm
    ]


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with otlp_receiver() as running:
        yield running


@pytest.fixture(scope="module")
def fleet(start: Callable[..., Any], receiver: Receiver) -> Iterator[Any]:
    """Two simulated engines whose spans go to the receiver, and an autoscaler that may have no other number."""
    flags = ("--engine", "simulated", "--replicas", str(REPLICAS))
    with valkey_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in {**TRACES, **SCALING, "ALORASERVE_OTLP_ENDPOINT": receiver.endpoint}.items():
            patch.setenv(name, value)
        with start(*flags, "--redis-url", socket_url(server), own_state=True) as running:
            yield running


@contextlib.contextmanager
def scraped(platform: Any, folder: Path, processes: int) -> Iterator[Prometheus]:
    """Run Prometheus over a platform that answers calls meanwhile, until its rates are known."""
    with prometheus(folder, platform.url) as server:
        server.wait_until(f"count(up == 1) == {processes}")
        # What a process counts first is no rate yet, and each process is scraped in its own time. In one round more
        # than there are replicas, one of them meets each kind of call twice, with a scrape in between.
        for number in range(REPLICAS + 1):
            known = [_count(server, name) for name in COUNTED]
            use(platform, f"in hour {number} of")
            for name, count in zip(COUNTED, known, strict=True):
                server.wait_until(f"sum({name}) >= {count + CALLS}")
        server.wait_until("sum(aloraserve_waiting_requests + aloraserve_running_requests) == 0")
        yield server


def _count(server: Prometheus, name: str) -> float:
    return sum(float(series["value"][1]) for series in server.query(name))


def empty_panels(server: Prometheus, is_vllm: bool) -> list[str]:
    """Return the panels' names, a query each, that show no number."""
    return [
        title
        for title, expr in queries(is_vllm)
        if all(math.isnan(float(series["value"][1])) for series in server.query(expr))
    ]


def use(platform: Any, subject: str) -> None:
    """Call base, aLoRA and LoRA, ``CALLS`` times in all, and what is refused."""
    conversation = [{"role": "user", "content": f"Tell me what comes {subject} the rain. " * 30}]
    platform.chat(BASE, conversation, 12)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda name: platform.chat(name, conversation, 6), ("safety", "uncertainty", "safety-lora")))
    assert platform.http.post("/v1/completions", json={"model": "no such"}).status_code >= 400


def test_one_scrape_configuration_reaches_every_process_once(fleet: Any, tmp_path: Path) -> None:
    with prometheus(tmp_path, fleet.url) as server:
        server.wait_until(f"count(up == 1) == {SCALED_PROCESSES}")
        assert len(server.targets()) == SCALED_PROCESSES
        assert len({one["metric"]["instance"] for one in server.query("up")}) == SCALED_PROCESSES
    listed = fleet.http.get("/v1/metrics/targets").json()
    names = sorted((one["labels"]["role"], one["labels"]["process"]) for one in listed)
    engines = [("engine", f"engine-{number}") for number in range(REPLICAS)]
    assert names == [("autoscaler", "autoscaler"), *engines, ("gateway", "gateway-0")]


def test_no_panel_is_empty_on_a_fleet_of_simulated_engines(fleet: Any, tmp_path: Path) -> None:
    with scraped(fleet, tmp_path, SCALED_PROCESSES) as server:
        assert empty_panels(server, is_vllm=False) == []


def test_no_panel_of_vllm_is_empty_on_real_engines(platform: Any, tmp_path: Path) -> None:
    tool("prometheus")
    with scraped(platform, tmp_path, REPLICAS + 1) as server:
        assert empty_panels(server, is_vllm=True) == []
        # The queue and the prefill are the engine's own words, not all of the time one thing.
        assert float(server.query("sum(aloraserve_prefill_seconds_sum)")[0]["value"][1]) > 0


def traced(fleet: Any, model: str, **body: Any) -> httpx.Response:
    content = {"model": model, "messages": [{"role": "user", "content": "A zebra. " * 60}], "max_tokens": 8, **body}
    headers = {"traceparent": f"00-{TRACE[:-2]}{len(model):02d}-{CLIENT_SPAN}-01", "x-request-id": f"traced-{model}"}
    answer = fleet.http.post("/v1/chat/completions", json=content, headers=headers)
    assert answer.status_code == 200
    return answer


def by_name(spans: list[Span]) -> dict[str, Span]:
    assert len(spans) == len(SPANS), [one.name for one in spans]
    return {span.name: span for span in spans}


@pytest.mark.parametrize("model", [BASE, "safety"])
def test_a_call_is_one_trace_over_gateway_and_replica(fleet: Any, receiver: Receiver, model: str) -> None:
    answer = traced(fleet, model, stream=model == BASE)
    spans = by_name(receiver.trace(f"{TRACE[:-2]}{len(model):02d}", SPANS))
    request = spans["request"]
    assert request.parent_id == CLIENT_SPAN
    assert {spans[name].parent_id for name in SPANS - {"request"}} == {request.span_id}
    assert {spans[name].service for name in ("request", "decide")} == {"aloraserve-gateway"}
    replica = answer.headers["x-aloraserve-replica"]
    for name in ("queue", "prefill", "decode"):
        assert (spans[name].service, spans[name].instance) == ("aloraserve-engine", replica)
    order = [spans[name] for name in ("decide", "queue", "prefill", "decode")]
    assert all(one.begin_ns <= one.end_ns for one in order)
    assert spans["queue"].end_ns == spans["prefill"].begin_ns
    assert spans["prefill"].end_ns == spans["decode"].begin_ns
    assert request.begin_ns <= spans["decide"].begin_ns <= spans["decode"].end_ns <= request.end_ns


def test_a_decision_s_span_is_its_receipt(fleet: Any, receiver: Receiver) -> None:
    traced(fleet, "uncertainty")
    spans = by_name(receiver.trace(f"{TRACE[:-2]}{len('uncertainty'):02d}", SPANS))
    receipt = fleet.http.get("/v1/receipts/traced-uncertainty").json()
    found = {name.removeprefix("aloraserve."): value for name, value in spans["decide"].attributes.items()}
    for part in ("policy", "reason", "claim", "lookup_ms"):
        assert found[part] == receipt[part]
    chosen = next(one for one in receipt["candidates"] if one["label"] == found["replica"])
    for part in ("expected_ttft_s", "overlap_tokens", "queue_s", "prefill_s"):
        assert found[f"estimate.{part}"] == chosen[part]
    assert spans["request"].attributes["aloraserve.request_id"] == "traced-uncertainty"


def test_no_span_holds_a_prompt(receiver: Receiver) -> None:
    assert receiver.spans
    assert not re.search("zebra", json.dumps([span.attributes for span in receiver.spans], default=str), re.IGNORECASE)
