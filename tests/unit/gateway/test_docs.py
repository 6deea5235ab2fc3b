"""The API's description has every route, in valid OpenAPI, and its page needs nothing from elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import jsonschema
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from aloraserve.wire import parse_body
from aloraserve.wire.openapi import OPERATIONS, openapi_document
from aloraserve_services.gateway.deployment import Gateway
from aloraserve_services.gateway.routes import PARAMETER, Routes

KEYS = {"api_keys": {"acme": SecretStr("tenant-key-0123456789")}}


@pytest.fixture
def gateway(open_gateway: Callable[..., Gateway]) -> Gateway:
    return open_gateway(CollectorRegistry(), **KEYS)


@pytest.fixture
def client(gateway: Gateway) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(gateway.http_app()), base_url="http://localhost")


def test_every_route_is_described_and_every_description_has_its_route(gateway: Gateway) -> None:
    routes = Routes()
    for part in gateway._http_parts():
        part.add_to(routes)
    there = {(method, re.sub(r"{\w*}", PARAMETER, path)) for path, method in routes.listed()}
    described = {(each.method, re.sub(r"{\w+}", PARAMETER, each.path)) for each in OPERATIONS}
    assert described == there


def test_the_description_s_references_lead_somewhere_and_names_are_unique() -> None:
    document = openapi_document()
    text = json.dumps(document)
    named = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert named <= set(document["components"]["schemas"])
    identifiers = re.findall(r'"operationId": "([^"]+)"', text)
    assert len(identifiers) == len(set(identifiers)) == len(OPERATIONS)
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("operation", [each for each in OPERATIONS if each.body], ids=lambda each: each.path)
def test_examples_are_accepted_and_fit_their_schema(operation: Any) -> None:
    assert parse_body(operation.body, json.dumps(dict(operation.example)).encode())
    document = openapi_document()
    schema = {"$ref": f"#/components/schemas/{operation.body.__name__}", "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(dict(operation.example))


async def test_the_page_and_its_files_need_no_key_and_no_other_server(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert page.status_code == 200
    assert "script-src 'self';" in page.headers["content-security-policy"]
    assert "//" not in page.text.replace("<!doctype", "")
    files = re.findall(r'(?:href|src)="([^"]+)"', page.text)
    assert len(files) == 4
    for file in files:
        answer = await client.get(f"/{file}")
        assert (answer.status_code, "max-age" in answer.headers["cache-control"]) == (200, True)
        assert len(answer.content) > 50
    document = await client.get("/openapi.json")
    assert document.json()["openapi"] == "3.1.0"
    assert (await client.get("/v1/models")).status_code == 401


@pytest.mark.parametrize("name", ["main.py", "../main.py", "..%2Fmain.py", "%2e%2e/main.py", "__init__.py", "a%00b"])
async def test_no_other_file_is_given(client: httpx.AsyncClient, name: str) -> None:
    assert (await client.get(f"/docs/{name}")).status_code == 404


async def test_head_is_answered_wherever_get_is(client: httpx.AsyncClient) -> None:
    for path in ("/openapi.json", "/docs", "/docs/swagger-ui.css", "/healthz", "/version"):
        assert (await client.head(path)).status_code == 200
