"""A gateway of a fleet of three replicas and three adapters, with a tokenizer of one token per character."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transformers
from prometheus_client import CollectorRegistry
from ray import serve
from support.character_tokenizer import ADAPTERS, CharacterTokenizer
from support.fake_engines import Engines

from aloraserve.adapters import JoinedRegistry, StaticRegistry
from aloraserve.adapters.catalog.ingested import Ingest
from aloraserve.adapters.catalog.memory import MemoryCatalog
from aloraserve.adapters.catalog.registry import CatalogRegistry
from aloraserve.adapters.catalog.view import CatalogView
from aloraserve.blocks import KeySpace
from aloraserve.settings import Settings
from aloraserve_services.gateway import deployment, serve_pool
from aloraserve_services.gateway.deployment import ENGINE, Gateway
from aloraserve_services.gateway.known_replicas import note_replicas
from aloraserve_services.plan import FleetPlan


@pytest.fixture
def adapters() -> StaticRegistry:
    return StaticRegistry(ADAPTERS, base_names=["base"])


@pytest.fixture
def plan(adapters: StaticRegistry) -> FleetPlan:
    class PlanOfThree(FleetPlan):
        """Has adapters without a folder, and an empty catalog."""

        def open_joined_registry(self, *, keeps_catalog: bool = False) -> JoinedRegistry:
            catalog = MemoryCatalog()
            ingest = Ingest(self.open_store(), "model", None)
            registry = CatalogRegistry(catalog, CatalogView(catalog), ingest, base_names=["base"])
            return JoinedRegistry(registry, adapters, base_names=["base"])

    return PlanOfThree(
        settings=Settings(max_model_len=64),
        served_name="base",
        model_path=Path("/none"),
        dtype="float32",
        keyspace=KeySpace("model", "tokenizer", 8),
    )


@pytest.fixture
def open_gateway(plan: FleetPlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Make a gateway with the given settings, whose directory cannot be reached."""
    monkeypatch.setattr(serve_pool, "own_request_id", lambda: None)
    monkeypatch.setattr(serve, "get_replica_context", lambda: SimpleNamespace(app_name="test"))
    monkeypatch.setattr(deployment, "fleet_application", lambda name: f"session.{name}")
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: CharacterTokenizer())
    note_replicas(ENGINE, "test", ["a", "b", "c"])

    def opened(registry: CollectorRegistry | None = None, **settings: Any) -> Gateway:
        same = {"max_model_len": 64, "block_tokens": 8, "redis_url": "redis://127.0.0.1:1", "transport": "serve"}
        same["state_dir"] = tmp_path
        chosen = Settings(**{**same, **settings})
        return Gateway(dataclasses.replace(plan, settings=chosen), Engines(), registry or CollectorRegistry())

    yield opened
    note_replicas(ENGINE, "test", [])
