"""The Serve deployment of a gateway: where its parts are put together."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import structlog
from prometheus_client import REGISTRY, CollectorRegistry
from ray import serve
from starlette.types import ASGIApp

from aloraserve.adapters.served import resolved
from aloraserve.diagnosis.window import DiagnosisWindow
from aloraserve.directory.base import Directory
from aloraserve.directory.guarded import guarded
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.routing.cells import CellReplicas, CellRouter
from aloraserve.routing.conversation_names import ConversationNames
from aloraserve.routing.cost_model import CostModel
from aloraserve.routing.in_flight import InFlight
from aloraserve.routing.policies import make_policy, policy_kind
from aloraserve.routing.receipts import ReceiptRing
from aloraserve.routing.router import CallRouter, Router
from aloraserve.serving.attempts import Dispatcher
from aloraserve.serving.intrinsics.runner import IntrinsicRunner
from aloraserve.serving.intrinsics.shared_prefix import PrefixWatch
from aloraserve.serving.prompts.activation_proof import prover_of
from aloraserve.serving.prompts.prompt_builder import PromptBuilder
from aloraserve.serving.receipt_writer import ReceiptWriter
from aloraserve.serving.reuse_observer import ReuseObserver
from aloraserve.settings import Settings
from aloraserve.telemetry.directory import ObservedDirectory
from aloraserve.telemetry.tracing import Tracing
from aloraserve.tenants import StaticTenants
from aloraserve_services.gateway.adapter_routes import AdapterRoutes
from aloraserve_services.gateway.adapters import GatewayAdapters
from aloraserve_services.gateway.admin import AdminRoutes
from aloraserve_services.gateway.call_metrics import CallMetrics
from aloraserve_services.gateway.call_slots import CallSlots
from aloraserve_services.gateway.call_spans import CallSpans
from aloraserve_services.gateway.diagnosis import FleetDiagnosis
from aloraserve_services.gateway.gateway_pool import GatewayPool
from aloraserve_services.gateway.http import OpenAIRoutes
from aloraserve_services.gateway.intrinsics import ChatIntrinsics, IntrinsicRoutes
from aloraserve_services.gateway.key_space import follow_key_spaces
from aloraserve_services.gateway.known_replicas import known_replicas
from aloraserve_services.gateway.lora_routes import LoraRoutes
from aloraserve_services.gateway.metrics import GatewayMetrics
from aloraserve_services.gateway.middleware import CountedRequests
from aloraserve_services.gateway.process import GatewayProcess
from aloraserve_services.gateway.receipts import AskAll, FleetReceipts, ask_gateways
from aloraserve_services.gateway.request_body import BodyReader
from aloraserve_services.gateway.routes import Routes
from aloraserve_services.gateway.savings import SavingsReporter
from aloraserve_services.gateway.server import GatewayServer
from aloraserve_services.plan import FleetPlan, make_plan

ENGINE = "engine"
GATEWAY = "gateway"
log = structlog.get_logger(__name__)


class Gateway:
    """One gateway's metrics, spans, router, request path and routes.

    Attributes:
        slots: of calls in progress.

    Args:
        plan: of the fleet.
        engines: Serve's handle of the engine deployment.
        registry: where the gateway's metrics are registered.
    """

    def __init__(self, plan: FleetPlan, engines: Any, registry: CollectorRegistry = REGISTRY) -> None:
        from transformers import AutoTokenizer

        settings = plan.settings
        self._is_keyless_loopback = not settings.api_keys and not settings.is_public
        self._app_name = serve.get_replica_context().app_name
        self._metrics = GatewayMetrics(registry)
        if not settings.metrics:
            self._metrics.turn_off()
        self._tracing = Tracing()
        calls = self._metrics.directory
        self._directories = [
            guarded(ObservedDirectory(plan.open_directory(cell, calls.unreadable.inc), calls))
            for cell in range(settings.cells)
        ]
        tokenizer = AutoTokenizer.from_pretrained(str(plan.model_path), local_files_only=True)
        self._managed = GatewayAdapters(plan, self._directories, prover_of(tokenizer))
        self._adapters = self._managed.registry
        self._keyspace = plan.keyspace
        self._process = GatewayProcess(settings, plan.open_endpoints(), self._tracing)
        self._cells = CellReplicas(self._replicas, self._directories)
        self._names, self._in_flight = ConversationNames(), InFlight()
        self._savings = SavingsReporter(
            plan.open_ledger(),
            plan.served_name,
            self._adapters,
            hour_price=settings.accelerator_hour_price,
            on_failure=self._metrics.ledger_failures.inc,
        )
        tenants = StaticTenants(settings.api_keys, settings.admin_keys, is_public=settings.is_public)
        self._receipts = receipts = ReceiptRing(settings.receipts)
        self._diagnosis = DiagnosisWindow()
        watch = PrefixWatch()
        observers = [
            ReuseObserver(plan.keyspace, self._diagnosis),
            watch,
            ReceiptWriter(receipts),
            CallMetrics(self._metrics),
            CallSpans(self._tracing),
            self._savings,
        ]
        prompts = PromptBuilder(
            tokenizer,
            plan.keyspace,
            base_model=plan.served_name,
            max_model_len=settings.max_model_len,
            resolve=functools.partial(resolved, self._adapters),
        )
        self._pool = GatewayPool(settings, engines, self._replicas)
        self.slots = CallSlots(plan.max_calls)
        dispatcher = Dispatcher(self._router(plan), self._pool.replicas, observers)
        bodies = BodyReader(settings.max_model_len, settings.body_timeout_s)
        self._adapter_routes = AdapterRoutes(self._managed.manager, tenants, bodies)
        self._lora_routes = LoraRoutes(self._managed.manager, tenants, bodies, base_model=plan.served_name)
        runner = IntrinsicRunner(prompts, dispatcher, watch, slot=self.slots.held)
        self._intrinsics = IntrinsicRoutes(tenants, runner, bodies, self.slots, base_model=plan.served_name)
        self._openai = OpenAIRoutes(
            tenants,
            prompts,
            dispatcher,
            ChatIntrinsics(runner),
            bodies,
            self.slots,
            base_model=plan.served_name,
            adapters=self._adapters,
            replicas=self._replicas,
        )
        self._admin = AdminRoutes(
            plan,
            tenants,
            self._directories,
            self._adapters,
            replicas=self._replicas,
            receipts=FleetReceipts(self.own_receipt, self.own_receipts, self._ask_all(settings.gateways)),
            diagnosis=FleetDiagnosis(self.own_diagnosis, self._ask_all(settings.gateways)),
            savings=self._savings,
            metrics=self._metrics.text,
            targets=self._process.targets,
        )

    def http_app(self) -> ASGIApp:
        """Return the HTTP application."""
        routes = Routes(loopback_only=self._is_keyless_loopback)
        for part in (self._openai, self._intrinsics, self._admin, self._adapter_routes, self._lora_routes):
            part.add_to(routes)
        return CountedRequests(routes, self._metrics, self._tracing)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Do what a gateway does beside answering: reach its replicas, show metrics, flush savings, follow changes."""
        async with self._pool.running(), self._process.running(), self._savings.flushing(), self._managed.running():
            followers = [
                asyncio.create_task(follow_key_spaces(self._directories, self._keyspace), name="follow_key_spaces")
            ]
            if len(self._directories) > 1:
                followers.append(asyncio.create_task(self._cells.follow(), name="follow_cells"))
            try:
                yield
            finally:
                for task in followers:
                    task.cancel()

    async def reachable(self) -> tuple[int, int]:
        """Return how many replicas Serve knows, and how many of them have published themselves in the directory."""
        try:
            states = [await directory.states() for directory in self._directories]
        except DirectoryUnavailableError:
            states = []
        return len(self._replicas()), sum(map(len, states))

    async def own_receipt(self, request_id: str) -> dict[str, Any] | None:
        """Return this gateway's receipt of a request; other gateways call this."""
        found = self._receipts.get(request_id)
        return None if found is None else found.as_dict()

    async def own_diagnosis(self, window_s: int) -> dict[str, Any]:
        """Return what became of reuse in this gateway's calls of the last seconds; other gateways call this."""
        return self._diagnosis.totals(window_s, time.time())

    async def own_receipts(self, limit: int) -> list[dict[str, Any]]:
        """Return this gateway's last receipts, the newest first; other gateways call this."""
        return [receipt.as_dict() for receipt in self._receipts.latest(limit)]

    def _router(self, plan: FleetPlan) -> CallRouter:
        if len(self._directories) == 1:
            return self._cell_router(plan, self._directories[0], self._replicas)
        routers = [
            self._cell_router(plan, directory, functools.partial(self._cells.of, cell))
            for cell, directory in enumerate(self._directories)
        ]
        return CellRouter(routers, self._cells, self._names, self._in_flight, spill_s=plan.settings.cell_spill_s)

    def _cell_router(self, plan: FleetPlan, directory: Directory, replicas: Callable[[], Sequence[str]]) -> Router:
        settings = plan.settings
        policy = make_policy(
            settings.policy,
            costs=CostModel(tpot_objective_s=settings.tpot_objective_ms / 1000),
            # Gateways that draw should not all draw the same.
            seed=secrets.randbits(32),
        )
        return Router(
            directory,
            policy,
            plan.keyspace,
            budget_s=settings.lookup_budget_ms / 1000,
            known_replicas=replicas,
            use_directory=policy_kind(settings.policy).asks_directory,
            names=self._names,
            in_flight=self._in_flight,
        )

    def _ask_all(self, gateways: int) -> AskAll | None:
        return ask_gateways(GATEWAY, self._app_name) if gateways > 1 else None

    def _replicas(self) -> tuple[str, ...]:
        return known_replicas(ENGINE, self._app_name)


class GatewayReplica:
    """A gateway as Serve starts it, calls it, checks it and stops it: from the settings alone.

    Clients reach its own HTTP server; Serve's calls are those of other gateways and of the command line.

    Args:
        settings: of the fleet, as :func:`aloraserve_services.app.build` decided them.
        engines: Serve's handle of the engine deployment.

    Raises:
        SettingsError: the model, the adapters or the TLS files are not on this machine.
        StartError: the packaged model cannot be converted, or the port is taken.
    """

    async def __init__(self, settings: Settings, engines: Any) -> None:  # type: ignore[misc]  # Serve awaits it
        self._closing = contextlib.AsyncExitStack()
        # The packaged model may have to be converted first.
        plan = await asyncio.to_thread(make_plan, settings, progress=log.info)
        self._gateway = Gateway(plan, engines)
        self._server = GatewayServer(plan.settings, self._gateway.http_app(), self._gateway.slots)
        await self._closing.enter_async_context(self._gateway.running())
        await self._server.start()
        self._closing.push_async_callback(self._server.stop)

    async def own_receipt(self, request_id: str) -> dict[str, Any] | None:
        """Return this gateway's receipt of a request; other gateways call this."""
        return await self._gateway.own_receipt(request_id)

    async def own_receipts(self, limit: int) -> list[dict[str, Any]]:
        """Return this gateway's last receipts, the newest first; other gateways call this."""
        return await self._gateway.own_receipts(limit)

    async def own_diagnosis(self, window_s: int) -> dict[str, Any]:
        """Return what became of reuse in this gateway's calls of the last seconds; other gateways call this."""
        return await self._gateway.own_diagnosis(window_s)

    async def reachable(self) -> tuple[int, int]:
        """Return how many replicas Serve knows, and how many the directory; the command line calls this."""
        return await self._gateway.reachable()

    async def drain(self) -> None:
        """Stop the HTTP server, see :meth:`GatewayServer.stop`; the command line does so before it ends everything."""
        await self._server.stop()

    async def check_health(self) -> None:
        """Raise if the HTTP server has ended; Serve then replaces this replica."""
        self._server.check()

    async def __del__(self) -> None:
        """Drain and end, when Serve stops this replica."""
        await self._closing.aclose()
