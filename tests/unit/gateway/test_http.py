"""The HTTP application over a scripted engine: sessions, receipts and who may read them."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from packaging.version import Version
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from structlog.testing import capture_logs
from support.character_tokenizer import ADAPTERS
from support.fake_engines import ANSWER, Engines, WaitingReplies
from support.fake_pool import ScriptedReplies
from support.http_server import post, serving

from aloraserve.adapters import RefusedAdapter, StaticRegistry
from aloraserve.serving.engine_messages import EngineCall
from aloraserve_services.gateway.adapters import following
from aloraserve_services.gateway.deployment import Gateway

TENANT, ADMIN = "tenant-key-0123456789", "admin-key-0123456789"
KEYS = {"api_keys": {"acme": SecretStr(TENANT)}, "admin_keys": {"root": SecretStr(ADMIN)}}
SECRET = "zebra"
Open = Callable[..., httpx.AsyncClient]


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def client(open_gateway: Callable[..., Gateway], registry: CollectorRegistry) -> Open:
    """Open a client of a gateway with the given settings, whose directory cannot be reached."""

    def opened(key: str | None = None, **settings: Any) -> httpx.AsyncClient:
        # The first gateway's metrics are looked at; others of this process need a registry of their own.
        counted = CollectorRegistry() if list(registry.collect()) else registry
        app = open_gateway(counted, **settings).http_app()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", headers=headers)

    return opened


async def ask(client: httpx.AsyncClient, **headers: str) -> str:
    """Make a call and return its id."""
    body = {"model": "base", "prompt": f"a {SECRET} at noon", "max_tokens": 1}
    answer = await client.post(
        "/v1/completions", json=body, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"]).removeprefix("cmpl-")


async def test_a_call_s_receipt_is_found_by_its_id(client: Open) -> None:
    one = client()
    request_id = await ask(one)
    receipt = (await one.get(f"/v1/receipts/{request_id}")).json()
    assert (receipt["request_id"], receipt["policy"], receipt["claim"]) == (request_id, "fallback", "none")
    assert receipt["fallback_reason"] == "the directory cannot be reached"
    assert {candidate["replica"] for candidate in receipt["candidates"]} == {"a", "b", "c"}
    assert receipt["replica"] == receipt["candidates"][0]["replica"]
    assert receipt["cached_tokens"] == 8
    assert receipt["ttft_s"] > 0


async def test_receipts_are_listed_the_newest_first_as_many_as_asked_for(client: Open) -> None:
    one = client()
    made = [await ask(one) for _ in range(3)]
    listed = (await one.get("/v1/receipts", params={"limit": 2})).json()["receipts"]
    assert [receipt["request_id"] for receipt in listed] == made[:0:-1]
    assert len((await one.get("/v1/receipts")).json()["receipts"]) == 3


async def test_no_receipt_repeats_a_prompt_a_session_or_a_key(client: Open) -> None:
    one = client(TENANT, **KEYS)
    await ask(one, x_session_id="secret-session")
    text = (await one.get("/v1/receipts", headers={"Authorization": f"Bearer {ADMIN}"})).text
    assert '"prompt_tokens": 16' in text
    assert not [secret for secret in (SECRET, "secret-session", TENANT, ADMIN, "acme") if secret in text]


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", "1.5", "", "9" * 5000])
async def test_a_limit_that_is_not_accepted_is_named(client: Open, limit: str) -> None:
    answer = await client().get("/v1/receipts", params={"limit": limit})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "limit"
    assert "1 to 1000" in answer.text


async def test_only_the_last_receipts_are_kept(client: Open) -> None:
    one = client(receipts=2)
    first, *_ = [await ask(one) for _ in range(3)]
    answer = await one.get(f"/v1/receipts/{first}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "receipt_not_found"
    assert "the last 2" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("key", "status"), [(None, 401), ("nobody-s-key-0123456789", 401), (TENANT, 403), (ADMIN, 200)]
)
async def test_receipts_are_for_administrators(client: Open, key: str | None, status: int) -> None:
    request_id = await ask(client(TENANT, **KEYS))
    one = client(key, **KEYS)
    assert (await one.get("/v1/receipts")).status_code == status
    found = (await one.get(f"/v1/receipts/{request_id}")).status_code
    assert found == (404 if status == 200 else status), "another gateway's, but only an administrator learns that"


async def test_without_administrators_a_tenant_reads_none(client: Open) -> None:
    answer = await client(TENANT, api_keys=KEYS["api_keys"]).get("/v1/receipts")
    assert answer.status_code == 403
    assert "the role admin" in answer.json()["error"]["message"]


async def test_the_session_header_keeps_a_session_on_a_replica(client: Open) -> None:
    one = client(policy="session-hash")
    for session in ("one", "two", "three"):
        ids = [await ask(one, x_session_id=session) for _ in range(3)]
        receipts = [(await one.get(f"/v1/receipts/{request_id}")).json() for request_id in ids]
        assert len({receipt["replica"] for receipt in receipts}) == 1
        assert receipts[0]["reason"] == "by hash of the session"
    without = (await one.get(f"/v1/receipts/{await ask(one)}")).json()
    assert without["reason"] == "by hash of the conversation"


async def test_the_version_is_vllm_s_at_the_server_s_root_and_needs_no_key(client: Open) -> None:
    found = (await client(**KEYS).get("/version")).json()
    assert Version(found["version"]) >= Version("0.12.0"), "mellea then sends structured_outputs"


@pytest.mark.parametrize(("more", "status"), [({}, 200), ({"stream": True}, 200), ({"model": "nobody"}, 404)])
async def test_every_response_names_the_fields_that_were_passed_over(
    client: Open, more: dict[str, Any], status: int
) -> None:
    opened, body = client(), {"model": "base", "prompt": "x"} | more
    answer = await opened.post("/v1/completions", json=body | {"colour": 1, "a\r\nb": 2})
    assert (answer.status_code, answer.headers["x-aloraserve-ignored"]) == (status, "colour, a%0D%0Ab")
    assert "x-aloraserve-ignored" not in (await opened.post("/v1/completions", json=body)).headers


async def test_a_session_of_any_length_is_one(client: Open) -> None:
    body = {"model": "base", "prompt": "x"}
    answer = await client().post("/v1/completions", json=body, headers={"x-session-id": "x" * 129})
    assert answer.status_code == 200


@pytest.mark.parametrize("policy", ["session-hash", "round-robin"])
async def test_a_policy_that_needs_no_directory_asks_none(client: Open, policy: str) -> None:
    one = client(policy=policy)
    receipt = (await one.get(f"/v1/receipts/{await ask(one)}")).json()
    assert (receipt["policy"], receipt["fallback_reason"]) == (policy, None)


async def test_the_list_of_processes_with_metrics_is_an_administrator_s(client: Open) -> None:
    assert (await client(TENANT, **KEYS).get("/v1/metrics/targets")).status_code == 403
    assert (await client(None, **KEYS).get("/v1/metrics/targets")).status_code == 401


async def test_while_the_directory_is_gone_the_list_is_none_rather_than_short(client: Open) -> None:
    """Prometheus keeps the targets that it had on any status but 200."""
    assert (await client(ADMIN, **KEYS).get("/v1/metrics/targets")).status_code == 503


async def test_a_call_counts_as_in_progress_until_it_is_answered(client: Open, registry: CollectorRegistry) -> None:
    await ask(client())
    assert registry.get_sample_value("aloraserve_requests_in_progress") == 0


async def test_attempts_fallbacks_and_overlap_are_counted(client: Open, registry: CollectorRegistry) -> None:
    def values() -> list[float]:
        asked = (
            ("attempts_total", {"outcome": "answered"}),
            ("fallbacks_total", {"reason": "unreachable"}),
            ("overlap_tokens_total", {"kind": "base"}),
            ("e2e_seconds_count", {"kind": "base", "adapter": ""}),
        )
        return [registry.get_sample_value(f"aloraserve_{name}", labels) or 0.0 for name, labels in asked]

    one = client()
    before = values()
    await ask(one)
    assert [new - old for new, old in zip(values(), before, strict=True)] == [1, 1, 0, 1]


async def test_a_client_s_trace_reaches_the_engine_s_call(client: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[EngineCall] = []

    def dispatch(self: Engines, selection: Any, call: EngineCall) -> ScriptedReplies:
        calls.append(call)
        return ScriptedReplies(ANSWER)

    monkeypatch.setattr(Engines, "dispatch", dispatch)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    one = client()
    await ask(one, traceparent=trace)
    await ask(one, traceparent="rubbish")
    assert [call.traceparent for call in calls] == [trace, None]


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_a_client_that_goes_away_aborts_its_call_at_once(
    client: Open, monkeypatch: pytest.MonkeyPatch, is_streamed: bool
) -> None:
    replies = WaitingReplies()
    monkeypatch.setattr(Engines, "dispatch", lambda *_: replies)
    body = json.dumps({"model": "base", "prompt": "x", "stream": is_streamed}).encode()
    app: Any = client()._transport.app  # type: ignore[attr-defined]
    async with serving(app) as server:
        _, writer = await server.connect()
        writer.write(post("/v1/completions", body))
        async with asyncio.timeout(60):
            await replies.waiting.wait()
            writer.close()
            await replies.cancelled.wait()
            await server.idle()


async def test_adapters_are_those_of_the_moment(client: Open, adapters: StaticRegistry) -> None:
    one = client()

    async def listed() -> tuple[list[str], list[str], list[str]]:
        models = [entry["id"] for entry in (await one.get("/v1/models")).json()["data"]]
        shown = (await one.get("/v1/replicas")).json()
        return models, [entry["name"] for entry in shown["adapters"]], [entry["name"] for entry in shown["refused"]]

    async def answered(model: str) -> tuple[int, str]:
        answer = await one.post("/v1/completions", json={"model": model, "prompt": "x", "max_tokens": 1})
        return answer.status_code, answer.text

    first, *others = ADAPTERS
    names = [version.name for version in ADAPTERS]
    assert await listed() == (["base", *names], names, [])
    assert (await answered(first.name))[0] == 200
    adapters.publish([*others], [RefusedAdapter(first.name, "it is bad")])
    assert await listed() == (["base", *names[1:]], names[1:], [first.name])
    status, text = await answered(first.name)
    assert status == 404
    assert f"model '{first.name}' is not served; served are base, {', '.join(names[1:])}" in text
    adapters.publish(ADAPTERS)
    assert (await answered(first.name))[0] == 200


async def test_a_call_goes_to_the_engine_with_the_version_that_is_served(
    client: Open, adapters: StaticRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[EngineCall] = []
    dispatch = Engines.dispatch

    def noted(engines: Engines, selection: Any, call: EngineCall) -> ScriptedReplies:
        calls.append(call)
        return dispatch(engines, selection, call)

    monkeypatch.setattr(Engines, "dispatch", noted)
    one, plain = client(), ADAPTERS[0]
    changed = dataclasses.replace(plain, digest="another digest")
    body = {"model": plain.name, "prompt": "x" * 24, "max_tokens": 1}
    for version in (plain, changed):
        adapters.publish([version])
        assert (await one.post("/v1/completions", json=body)).status_code == 200
        assert calls[-1].adapter == version.ref
    assert not set(calls[0].keys) & set(calls[1].keys), "a changed adapter shares nothing with its former self"


async def test_changes_of_adapters_are_logged(adapters: StaticRegistry) -> None:
    with capture_logs() as logs:
        async with following(adapters), asyncio.timeout(60):
            while len(logs) < len(ADAPTERS):  # noqa: ASYNC110 - a log reports to nobody
                await asyncio.sleep(0.001)
            adapters.publish(ADAPTERS[1:], [RefusedAdapter(ADAPTERS[0].name, "it is bad")])
            while len(logs) < len(ADAPTERS) + 2:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
    assert [entry["event"] for entry in logs[-2:]] == ["adapter_removed", "adapter_refused"]
    assert logs[-1]["reason"] == "it is bad"


async def test_a_chat_may_let_the_base_model_invoke_adapters(client: Open) -> None:
    one = client()
    body = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    answer = await one.post("/v1/chat/completions", json={**body, "adapters": "auto"})
    assert answer.json()["choices"][0]["message"]["content"] == "x"
    named = await one.post("/v1/chat/completions", json={**body, "adapters": ["safety"], "stream": True})
    assert named.text.endswith("data: [DONE]\n\n")
    refused = await one.post("/v1/chat/completions", json={**body, "adapters": ["plain"]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "adapters")
    assert (await one.post("/v1/chat/completions", json={**body, "adapters": ["nobody"]})).status_code == 404
    assert (await one.post("/v1/chat/completions", json={**body, "adapters": "all"})).status_code == 400


async def test_a_model_is_shown_as_the_list_has_it(client: Open) -> None:
    one = client()
    listed = {entry["id"]: entry for entry in (await one.get("/v1/models")).json()["data"]}
    assert listed["base"]["parent"] is listed["base"]["invocation"] is None
    for name, entry in listed.items():
        assert (await one.get(f"/v1/models/{name}")).json() == entry
    adapter = next(adapter for adapter in ADAPTERS if adapter.kind == "alora")
    shown = listed[adapter.name]
    assert (shown["kind"], shown["parent"], shown["root"]) == ("alora", "base", adapter.name)
    assert shown["invocation"]["tokens"] == list(adapter.invocation_ids)


async def test_every_part_of_an_answer_says_which_platform_gave_it(client: Open) -> None:
    """By that a client that sets a seed finds out why its answer is another one now."""
    one, found = client(), set()
    for path, body in (
        ("completions", {"prompt": "x"}),
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    ):
        whole = await one.post(f"/v1/{path}", json={"model": "base"} | body)
        streamed = await one.post(f"/v1/{path}", json={"model": "base", "stream": True} | body)
        events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
        found |= {part["system_fingerprint"] for part in (whole.json(), *events)}
    [fingerprint] = found
    assert re.fullmatch(r"aloraserve-[\w.+-]+-[0-9a-f]{8}", fingerprint)


async def test_a_model_that_is_not_served_is_not_found(client: Open) -> None:
    for name in ("nobody", "%7B%7D", "a%2Fb", "safety@" + "0" * 12):
        answer = await client().get(f"/v1/models/{name}")
        assert answer.status_code == 404, name


async def test_a_model_is_shown_to_callers_alone(client: Open) -> None:
    assert (await client(**KEYS).get("/v1/models/base")).status_code == 401
    assert (await client(TENANT, **KEYS).get("/v1/models/base")).status_code == 200
