"""Who may do what to which adapters: the same over HTTP and gRPC, for each role and each tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.message import Message
from support.adapter_gateway import AdapterGateway
from support.grpc_caller import GrpcCaller
from support.peft_adapters import write_peft_adapter

from aloraserve.tenants import Role
from aloraserve.tenants.manager import TenantManager
from aloraserve.v1 import adapters_pb2 as messages
from aloraserve.wire.protobuf import message_of

Code = grpc.StatusCode
CODES = {
    200: Code.OK,
    201: Code.OK,
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    409: Code.FAILED_PRECONDITION,
}
NAME = "acme.safety"
ALIAS = f"/v1/adapters/{NAME}/aliases/prod"
CALLS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    # method: of HTTP, path, body, message
    "List": ("GET", "/v1/adapters", {}, {}),
    "Get": ("GET", f"/v1/adapters/{NAME}", {}, {"reference": NAME}),
    "SetAlias": ("PUT", ALIAS, {"target": NAME}, {"name": NAME, "alias": "prod", "target": NAME}),
    "Rollback": ("POST", f"{ALIAS}/rollback", {}, {"name": NAME, "alias": "prod"}),
    "RemoveAlias": ("DELETE", ALIAS, {}, {"name": NAME, "alias": "prod"}),
    "Retire": ("POST", f"/v1/adapters/{NAME}/retire", {}, {"reference": NAME}),
    "Delete": ("DELETE", f"/v1/adapters/{NAME}?force=true", {}, {"reference": NAME, "force": True}),
}
"""In an order in which the owner of the adapter may make them all, but for the roll-back of a new alias."""


@pytest.fixture
def fleet(tmp_path: Path) -> AdapterGateway:
    return AdapterGateway(tmp_path)


@pytest.fixture
async def keys(fleet: AdapterGateway) -> dict[str, str]:
    manager = TenantManager(fleet.tenant_store, fleet.tenants.view, fleet.pepper, on_change=fleet.tenants.catch_up)
    made = {name: await manager.create_key(name, [Role.ADAPTERS]) for name in ("acme", "other")}
    made["caller"] = await manager.create_key("acme", [Role.INVOKE])
    made["admin"] = await manager.create_key(None, [Role.ADMIN])
    return {name: new.text for name, new in made.items()} | {"nobody": "nobody-s-key-0123456789"}


@pytest.fixture
async def caller(fleet: AdapterGateway) -> AsyncIterator[GrpcCaller]:
    async with fleet.grpc_client() as caller:
        yield caller
    await fleet.manager.close()


@pytest.fixture
def source(fleet: AdapterGateway) -> str:
    (fleet.root / "tenants").mkdir()
    return str(write_peft_adapter(fleet.root / "tenants" / "safety"))


async def over_http(fleet: AdapterGateway, key: str, method: str, path: str, body: dict[str, Any]) -> httpx.Response:
    async with fleet.client(key) as client:
        return await client.request(method, path, json=body)


async def over_grpc(caller: GrpcCaller, key: str, name: str, content: dict[str, Any]) -> tuple[Code, Any]:
    """Return the status of a call, and its answer or what it says is wrong."""
    request = message_of(getattr(messages, f"{name}Request"), content)
    kind: type[Message] = getattr(messages, f"{name}Response")
    call = caller.stream if name == "Register" else caller.unary
    made = call(f"Adapters/{name}", request, [("authorization", f"Bearer {key}")])
    try:
        raw = [part async for part in made][-1] if name == "Register" else await made
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details()
    return Code.OK, kind.FromString(raw)


@pytest.mark.parametrize("who", ["acme", "other", "caller", "admin", "nobody"])
async def test_a_role_may_do_the_same_over_both(
    fleet: AdapterGateway, caller: GrpcCaller, keys: dict[str, str], source: str, who: str
) -> None:
    expected: list[tuple[str, Code, str | None]] = []
    body = {"name": NAME, "source": source}
    assert (await over_http(fleet, keys["acme"], "POST", "/v1/adapters", body)).status_code == 201
    for name, (method, path, sent, _) in CALLS.items():
        reply = await over_http(fleet, keys[who], method, path, sent)
        expected.append((name, CODES[reply.status_code], reply.json().get("error", {}).get("message")))
    await over_http(fleet, keys["acme"], "DELETE", f"/v1/adapters/{NAME}?force=true", {})
    assert (await over_http(fleet, keys["acme"], "POST", "/v1/adapters", body)).status_code == 201
    for name, code, said in expected:
        own_code, answer = await over_grpc(caller, keys[who], name, CALLS[name][3])
        assert (name, own_code) == (name, code)
        assert said in (None, answer)


async def test_another_tenant_s_adapter_is_not_there(
    fleet: AdapterGateway, caller: GrpcCaller, keys: dict[str, str], source: str
) -> None:
    content = {"name": NAME, "source": source}
    code, answer = await over_grpc(caller, keys["acme"], "Register", content)
    assert (code, answer.registration.entry.owner, answer.registration.entry.visibility) == (Code.OK, "acme", "private")
    assert [entry.name for entry in (await over_grpc(caller, keys["acme"], "List", {}))[1].data] == [NAME]
    assert not (await over_grpc(caller, keys["other"], "List", {}))[1].data
    absent = (await over_grpc(caller, keys["other"], "Get", {"reference": "acme.absent"}))[1].replace(
        "acme.absent", NAME
    )
    for name, (*_, message) in CALLS.items():
        if name != "List":
            assert await over_grpc(caller, keys["other"], name, message) == (Code.NOT_FOUND, absent)
    assert (await over_grpc(caller, keys["other"], "List", {"owner": "acme"}))[0] is Code.PERMISSION_DENIED
    for refused in ({"visibility": "public"}, {"owner": "other"}):
        assert (await over_grpc(caller, keys["acme"], "Register", content | refused))[0] is Code.PERMISSION_DENIED
