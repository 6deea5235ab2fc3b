"""The routes of adapters over a real manager, check and store; the catalog is in memory."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from aloraserve.adapters import AdapterReader, AdapterStore
from aloraserve.adapters.catalog import AdapterEntry
from aloraserve.adapters.catalog.memory import MemoryCatalog
from aloraserve.adapters.catalog.view import CatalogView
from aloraserve.adapters.management import AdapterManager, Usage
from aloraserve.adapters.management.intake import StoreIntake
from aloraserve.adapters.sources import SourceFetcher, SourcePolicy
from aloraserve.telemetry.tracing import Tracing
from aloraserve.tenants import StaticTenants
from aloraserve.tenants.keys import Pepper
from aloraserve.tenants.live import LiveTenants
from aloraserve.tenants.store import MemoryTenantStore
from aloraserve_services.gateway.adapter_access import AdapterAccess
from aloraserve_services.gateway.adapter_routes import AdapterRoutes
from aloraserve_services.gateway.body_budget import BodyBudget
from aloraserve_services.gateway.call_slots import CallSlots
from aloraserve_services.gateway.grpc.adapters import AdapterMethods
from aloraserve_services.gateway.grpc.edge import GrpcEdge
from aloraserve_services.gateway.lora_routes import LoraRoutes
from aloraserve_services.gateway.metrics import GatewayMetrics
from aloraserve_services.gateway.request_body import BodyReader
from aloraserve_services.gateway.routes import Routes
from support.grpc_caller import GrpcCaller, served
from support.peft_adapters import BASE, write_peft_adapter

QUOTA = 2
"""Versions that each tenant may have."""


class Places:
    """Where versions are, by name."""

    def __init__(self) -> None:
        self.of_name: dict[str, Usage] = {}

    async def of(self, entry: AdapterEntry) -> Usage:
        return self.of_name.get(entry.name, Usage())


class AdapterGateway:
    """The routes of one gateway, and the parts behind them."""

    def __init__(self, root: Path, **keys: dict[str, SecretStr]) -> None:
        self.root = root / "sources"
        self.root.mkdir()
        self.store = AdapterStore(root / "store")
        self.places = Places()
        reader = AdapterReader(base=BASE, max_rank=8)
        fetcher = SourceFetcher(SourcePolicy.of([str(self.root)]), self.store.stage)
        catalog = MemoryCatalog()
        view = CatalogView(catalog)
        intake = StoreIntake(fetcher, lambda: reader, self.store)
        self.manager = AdapterManager(catalog, view, intake, self.places, base="base-digest", base_names=["base"])
        static = StaticTenants(keys.get("api_keys", {}), keys.get("admin_keys", {}), is_public=False)
        self.pepper, self.tenant_store = Pepper(b"0123456789abcdef"), MemoryTenantStore()
        self.tenants = tenants = LiveTenants(self.tenant_store, static, self.pepper)
        bodies = BodyReader(64, 10)
        self.routes = Routes()
        access = AdapterAccess(tenants, self.manager, SourcePolicy.of([str(self.root / "tenants")]), quota=QUOTA)
        AdapterRoutes(self.manager, access, bodies).add_to(self.routes)
        self._methods = AdapterMethods(self.manager, access).methods()
        LoraRoutes(self.manager, tenants, bodies, base_model="base").add_to(self.routes)

    def write(self, name: str = "safety", **content: Any) -> str:
        return str(write_peft_adapter(self.root / name, **content))

    @contextlib.asynccontextmanager
    async def grpc_client(self) -> AsyncIterator[GrpcCaller]:
        metrics, slots = GatewayMetrics(CollectorRegistry()), CallSlots(10)
        edge = GrpcEdge(
            self._methods,
            self.tenants,
            slots,
            metrics,
            Tracing(),
            BodyBudget(1 << 20),
            message_timeout_s=10,
            stall_timeout_s=10,
        )
        async with served(edge) as caller:
            yield caller

    def client(self, key: str | None = None) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.routes), base_url="http://localhost", headers=headers
        )
