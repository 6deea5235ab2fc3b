"""Base models whose names have slashes, as those of the Hugging Face Hub do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from aloraserve_services.gateway.deployment import Gateway
from aloraserve_services.plan import FleetPlan

NAME = "org/team/model"


@pytest.fixture
def plan(plan: FleetPlan) -> FleetPlan:
    return dataclasses.replace(plan, served_name=NAME)


@pytest.fixture
def client(open_gateway: Callable[..., Gateway]) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(open_gateway().http_app())
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


async def test_openai_s_client_retrieves_every_model_that_it_lists(client: httpx.AsyncClient) -> None:
    sdk = openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="none", http_client=client, max_retries=0)
    listed = [model async for model in sdk.models.list()]
    assert NAME in [model.id for model in listed]
    for model in listed:
        assert await sdk.models.retrieve(model.id) == model


@pytest.mark.parametrize("path", ["org%2Fteam%2Fmodel", "org/team/model"])
async def test_the_slash_is_sent_as_it_is_or_encoded(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(f"/v1/models/{path}")
    assert (answer.status_code, answer.json()["id"]) == (200, NAME)


@pytest.mark.parametrize("path", ["org", "org/team", "org/team/model/", "org//model", "", "/", "org/team/other"])
async def test_any_other_name_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    answer: Any = await client.get(f"/v1/models/{path}")
    assert answer.status_code == 404
