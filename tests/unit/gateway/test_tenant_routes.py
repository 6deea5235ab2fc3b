"""Keys and tenants over HTTP: what an administrator makes is valid at once, and nobody else makes any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from aloraserve.tenants.store import MemoryTenantStore
from aloraserve_services import tenant_store
from aloraserve_services.gateway.deployment import Gateway

ADMIN = "admin-key-0123456789"


class Api:
    """A gateway, asked with one key or another."""

    def __init__(self, gateway: Gateway) -> None:
        self._app = gateway.http_app()

    async def __call__(self, method: str, path: str, key: str | None = None, body: Any = None) -> httpx.Response:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        transport = httpx.ASGITransport(self._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, json=body, headers=headers)


@pytest.fixture
def open_api(open_gateway: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Api]:
    store = MemoryTenantStore()
    monkeypatch.setattr(tenant_store.RedisTenantStore, "from_url", lambda *_, **__: store)
    return lambda **settings: Api(open_gateway(**settings))


@pytest.fixture
def api(open_api: Callable[..., Api]) -> Api:
    return open_api(admin_keys={"root": ADMIN}, host="0.0.0.0")


async def test_a_key_is_made_used_rotated_and_revoked_without_a_restart(api: Api) -> None:
    made = await api("POST", "/v1/admin/keys", ADMIN, {"tenant": "acme", "roles": ["invoke"], "label": "ci"})
    assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
    key, key_id = made.json()["key"], made.json()["id"]
    assert (await api("GET", "/v1/models", key)).status_code == 200
    new = (await api("POST", f"/v1/admin/keys/{key_id}/rotate", ADMIN, {"grace_s": 3600})).json()
    assert (new["tenant"], new["label"]) == ("acme", "ci")
    revoked = (await api("DELETE", f"/v1/admin/keys/{key_id}", ADMIN)).json()
    assert revoked["state"] == "revoked"
    assert [(await api("GET", "/v1/models", each)).status_code for each in (key, new["key"])] == [401, 200]
    listed = (await api("GET", "/v1/admin/keys?tenant=acme", ADMIN)).json()["data"]
    assert [each["state"] for each in listed] == ["revoked", "active"]
    assert "key" not in listed[0]


async def test_a_key_does_what_its_roles_are_for(api: Api) -> None:
    body = {"tenant": "acme", "roles": ["invoke", "admin"]}
    both = (await api("POST", "/v1/admin/keys", ADMIN, body)).json()["key"]
    invoke = (await api("POST", "/v1/admin/keys", both, {"tenant": "acme", "roles": ["invoke"]})).json()["key"]
    refused = await api("GET", "/v1/admin/keys", invoke)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "role_needed")
    assert refused.json()["error"]["message"] == "this needs a key with the role admin; this key's roles: invoke"
    chat = await api("POST", "/v1/chat/completions", ADMIN, {"model": "base", "messages": []})
    assert chat.json()["error"]["message"] == "this needs a key with the role invoke; this key's roles: admin"
    assert (await api("GET", "/v1/models", ADMIN)).status_code == 200


async def test_on_a_public_address_without_keys_nobody_is_answered(open_api: Callable[..., Api]) -> None:
    api = open_api(host="0.0.0.0")
    for method, path in (("GET", "/v1/models"), ("GET", "/v1/replicas"), ("POST", "/v1/admin/keys")):
        assert (await api(method, path)).status_code == 401
    assert (await api("GET", "/healthz")).status_code == 200


async def test_on_ones_own_machine_the_first_key_closes_the_platform(open_api: Callable[..., Api]) -> None:
    api = open_api()
    assert (await api("GET", "/v1/models")).status_code == 200
    key = (await api("POST", "/v1/admin/keys", body={"roles": ["admin"]})).json()["key"]
    assert (await api("GET", "/v1/models")).status_code == 401
    assert (await api("GET", "/v1/models", key)).status_code == 200


async def test_limits_are_shown_changed_and_taken_away(api: Api) -> None:
    path = "/v1/admin/tenants/acme"
    assert (await api("GET", path, ADMIN)).json()["error"]["code"] == "tenant_not_found"
    await api("PATCH", path, ADMIN, {"requests_per_minute": 60, "weight": 2})
    changed = (await api("PATCH", path, ADMIN, {"requests_per_minute": None, "concurrency": 3})).json()
    assert (changed["limits"]["requests_per_minute"], changed["limits"]["concurrency"]) == (None, 3)
    assert changed["limits"]["weight"] == 2
    listed = (await api("GET", "/v1/admin/tenants", ADMIN)).json()["data"]
    assert [tenant["name"] for tenant in listed] == ["acme"]
    assert (await api("DELETE", path, ADMIN)).json() == {"deleted": "acme"}
    assert (await api("DELETE", path, ADMIN)).status_code == 404


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({}, "roles"),
        ({"roles": []}, "roles"),
        ({"roles": ["owner"]}, "roles"),
        ({"roles": ["invoke"], "tenant": "A/b"}, "tenant is 'A/b'; 1 to 64 of a-z"),
        ({"roles": ["invoke"], "tenant": "acme", "expires_in_s": 0}, "expires_in_s is 0"),
        ({"roles": ["invoke"], "tenant": "acme", "expires_in_s": 1e300}, "expires_in_s is 1e+300"),
        ({"roles": ["invoke"], "tenant": "acme", "label": "a\nb"}, "label"),
        ({"roles": ["invoke"], "tenant": "acme", "secret": "x"}, "secret"),
    ],
)
async def test_what_is_not_accepted_is_named_and_makes_no_key(api: Api, body: dict[str, Any], fault: str) -> None:
    refused = await api("POST", "/v1/admin/keys", ADMIN, body)
    assert refused.status_code == 400
    assert fault in refused.json()["error"]["message"]
    assert (await api("GET", "/v1/admin/keys", ADMIN)).json()["data"] == []
