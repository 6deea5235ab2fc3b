"""Shared prefixes over HTTP, and a client's own cache salt."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from prometheus_client import CollectorRegistry

from aloraserve.records.memory import MemoryStore
from aloraserve.tenants.shared_prefix import prefix_kind
from aloraserve.tenants.store import MemoryTenantStore
from aloraserve_services import tenant_store
from aloraserve_services.gateway.deployment import Gateway

ADMIN, ACME = "admin-key-0123456789", "acme-key-0123456789"


@pytest.fixture
def client(open_gateway: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch) -> httpx.AsyncClient:
    monkeypatch.setattr(tenant_store.RedisTenantStore, "from_url", lambda *_, **__: MemoryTenantStore())
    store = MemoryStore(prefix_kind())
    monkeypatch.setattr(tenant_store, "RedisStore", lambda *_, **__: store)
    gateway = open_gateway(CollectorRegistry(), api_keys={"acme": ACME}, admin_keys={"root": ADMIN})
    headers = {"Authorization": f"Bearer {ADMIN}"}
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(gateway.http_app()), base_url="http://localhost", headers=headers
    )


PATH = "/v1/admin/shared-prefixes/system"


async def test_a_prefix_is_what_chats_with_its_messages_have_in_common(client: httpx.AsyncClient) -> None:
    body = {"messages": [{"role": "system", "content": "be kind to everyone"}]}
    put = await client.put(PATH, json=body)
    # The test's template writes "s:be kind to everyone\nu:".
    assert (put.status_code, put.json()["tokens"], put.json()["shared_tokens"]) == (200, 24, 24)
    listed = (await client.get("/v1/admin/shared-prefixes")).json()["data"]
    assert [(each["name"], each["tokens"]) for each in listed] == [("system", 24)]
    assert (await client.delete(PATH)).json() == {"deleted": "system"}
    assert (await client.delete(PATH)).json()["error"]["code"] == "prefix_not_found"


async def test_a_prefix_may_be_a_text(client: httpx.AsyncClient) -> None:
    # And the token that every prompt of this tokenizer begins with.
    put = await client.put(PATH, json={"text": "once upon a time"})
    assert (put.json()["tokens"], put.json()["shared_tokens"]) == (17, 16)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({}, "'messages' or 'text' is needed"),
        ({"text": "a" * 20, "messages": [{"role": "system", "content": "x"}]}, "not both"),
        ({"text": "short"}, "the prefix has 6 tokens; 8, one block,"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role"),
        ({"messages": []}, "messages"),
    ],
)
async def test_what_is_not_a_prefix_is_refused_by_name(
    client: httpx.AsyncClient, body: dict[str, object], fault: str
) -> None:
    refused = await client.put(PATH, json=body)
    assert refused.status_code == 400
    assert fault in refused.json()["error"]["message"]


async def test_tenants_neither_see_nor_change_prefixes(client: httpx.AsyncClient) -> None:
    client.headers["Authorization"] = f"Bearer {ACME}"
    for method, path in (("GET", "/v1/admin/shared-prefixes"), ("PUT", PATH), ("DELETE", PATH)):
        assert (await client.request(method, path, json={})).status_code == 403


async def test_load_savings_and_decisions_are_for_administrators(client: httpx.AsyncClient) -> None:
    client.headers["Authorization"] = f"Bearer {ACME}"
    for path in ("/v1/replicas", "/v1/savings", "/v1/receipts", "/v1/diagnosis", "/v1/scaling", "/v1/metrics/targets"):
        assert (await client.get(path)).json()["error"]["code"] == "role_needed", path
