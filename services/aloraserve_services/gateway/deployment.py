"""A gateway: where its parts are put together."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator
from typing import Any

import structlog
from prometheus_client import REGISTRY, CollectorRegistry
from ray import serve
from starlette.types import ASGIApp

from aloraserve.diagnosis.window import DiagnosisWindow
from aloraserve.directory.base import Directory
from aloraserve.directory.guarded import guarded
from aloraserve.errors import DirectoryUnavailableError
from aloraserve.limits.guarded import GuardedLimits
from aloraserve.routing.receipts import ReceiptRing
from aloraserve.serving.attempts import Dispatcher
from aloraserve.serving.intrinsics.runner import IntrinsicRunner
from aloraserve.serving.intrinsics.shared_prefix import PrefixWatch
from aloraserve.serving.observers import CallObserver
from aloraserve.serving.prompts.activation_proof import prover_of
from aloraserve.serving.receipt_writer import ReceiptWriter
from aloraserve.serving.reuse_observer import ReuseObserver
from aloraserve.serving.tenant_limits import TenantAdmission
from aloraserve.serving.time_limits import NO_REPLICA_S, TimeLimits
from aloraserve.telemetry.directory import ObservedDirectory
from aloraserve.telemetry.tracing import Tracing
from aloraserve_services.gateway.adapter_access import AdapterAccess
from aloraserve_services.gateway.adapter_routes import AdapterRoutes
from aloraserve_services.gateway.adapters import GatewayAdapters
from aloraserve_services.gateway.admin import AdminRoutes
from aloraserve_services.gateway.answer_headers import fixed_headers, for_origins
from aloraserve_services.gateway.answered import CallResponses
from aloraserve_services.gateway.call_metrics import CallMetrics
from aloraserve_services.gateway.call_slots import CallSlots
from aloraserve_services.gateway.call_spans import CallSpans
from aloraserve_services.gateway.calls import ChatCalls, CompletionCalls
from aloraserve_services.gateway.demand import DemandCounter, DemandReports
from aloraserve_services.gateway.diagnosis import FleetDiagnosis
from aloraserve_services.gateway.docs_routes import DocsRoutes
from aloraserve_services.gateway.gateway_pool import GatewayPool
from aloraserve_services.gateway.grpc.adapters import AdapterMethods
from aloraserve_services.gateway.grpc.edge import GrpcEdge
from aloraserve_services.gateway.grpc.health import HealthMethods
from aloraserve_services.gateway.grpc.inference import InferenceMethods
from aloraserve_services.gateway.grpc.intrinsics import IntrinsicMethods
from aloraserve_services.gateway.grpc.method import GrpcPart
from aloraserve_services.gateway.grpc.reflection import ReflectionMethods, service_names
from aloraserve_services.gateway.grpc.repeated import RepeatedCalls
from aloraserve_services.gateway.grpc.server import GatewayGrpcServer
from aloraserve_services.gateway.http import OpenAIRoutes
from aloraserve_services.gateway.idempotency import IdempotentAnswers
from aloraserve_services.gateway.intrinsics import ChatIntrinsics, IntrinsicCalls, IntrinsicRoutes
from aloraserve_services.gateway.key_space import follow_key_spaces
from aloraserve_services.gateway.known_replicas import known_replicas
from aloraserve_services.gateway.lora_routes import LoraRoutes
from aloraserve_services.gateway.metrics import GatewayMetrics
from aloraserve_services.gateway.middleware import CountedRequests
from aloraserve_services.gateway.origins import may_call
from aloraserve_services.gateway.prefix_routes import PrefixRoutes
from aloraserve_services.gateway.process import GatewayProcess
from aloraserve_services.gateway.receipts import AskAll, FleetReceipts, ask_gateways
from aloraserve_services.gateway.request_body import BodyReader
from aloraserve_services.gateway.response_routes import ResponseRoutes
from aloraserve_services.gateway.routes import HttpPart, Routes
from aloraserve_services.gateway.routing import GatewayRouting
from aloraserve_services.gateway.savings import SavingsReporter
from aloraserve_services.gateway.scaling import ScalingReporter
from aloraserve_services.gateway.tenant_routes import TenantRoutes
from aloraserve_services.gateway.tokenize_routes import TokenizeRoutes
from aloraserve_services.gateway.usage import UsageReporter, UsageRoutes
from aloraserve_services.kept_tasks import Work, kept
from aloraserve_services.node import fleet_application
from aloraserve_services.plan import FleetPlan
from aloraserve_services.prompts import open_prompts
from aloraserve_services.tenant_store import FleetTenants, open_prefixes

log = structlog.get_logger(__name__)
ENGINE = "engine"
GATEWAY = "gateway"


class Gateway:
    """One gateway's metrics, spans, router, request path and routes.

    Attributes:
        metrics: of this gateway.
        slots: of calls in progress.

    Args:
        plan: of the fleet.
        engines: Serve's handle of the engine deployment.
        registry: where the gateway's metrics are registered.
    """

    def __init__(self, plan: FleetPlan, engines: Any, registry: CollectorRegistry = REGISTRY) -> None:
        from transformers import AutoTokenizer

        settings = plan.settings
        self._plan = plan
        self._app_name = serve.get_replica_context().app_name
        self.metrics = GatewayMetrics(registry)
        if not settings.metrics:
            self.metrics.turn_off()
        self._tracing = Tracing()
        self._directories = self._open_directories()
        tokenizer = AutoTokenizer.from_pretrained(str(plan.model_path), local_files_only=True)
        self._managed = GatewayAdapters(plan, self._directories, prover_of(tokenizer))
        self._adapters = self._managed.registry
        self._fleet_tenants = FleetTenants(settings)
        self._tenants = self._fleet_tenants.live
        self._prefixes = open_prefixes(settings, plan.keyspace)
        self._process = GatewayProcess(settings, plan.open_endpoints(), self._tracing)
        self._savings = self._open_savings()
        self._receipts = ReceiptRing(settings.receipts)
        self._diagnosis = DiagnosisWindow()
        self._watch = PrefixWatch()
        self._routing = GatewayRouting(plan, self._directories, self._replicas)
        self._pool = GatewayPool(settings, engines, self._replicas, self._routing.leaving)
        self._board = plan.open_board(fleet_application(self._app_name))
        self._demand = DemandCounter(self._pool.waiting, lambda: bool(self._replicas()))
        self.slots = CallSlots(plan.max_calls, lambda caller: settings.effective_limits.of(caller).weight)
        limits = TimeLimits(
            settings.call_timeout_s,
            settings.chunk_timeout_s,
            settings.hold_timeout_s if settings.scales_to_zero else NO_REPLICA_S,
        )
        self._usage = UsageReporter(plan.open_usage(), self.metrics)
        self._limits = GuardedLimits(
            plan.open_limits(), settings.most_gateways, on_failure=self.metrics.limits_taken_here.inc
        )
        admission = TenantAdmission(self._limits, settings.effective_limits.of, self._usage)
        self._dispatcher = Dispatcher(self._routing.router, self._pool.replicas, self._observers(), limits, admission)
        self._prompts = open_prompts(plan, tokenizer, self._adapters, self._prefixes.public_blocks)
        runner = IntrinsicRunner(self._prompts, self._dispatcher, self._watch, slot=self.slots.held)
        self._intrinsics = IntrinsicCalls(runner, plan.served_name)
        self._bodies = BodyReader(settings.max_model_len, settings.body_timeout_s)
        self._chats = ChatCalls(self._prompts, self._dispatcher, ChatIntrinsics(runner), self.slots, self._adapters)
        self._completions = CompletionCalls(self._prompts, self._dispatcher, self.slots)
        self._idempotent = IdempotentAnswers(self._ask_all(settings.most_gateways))
        self._responses = CallResponses(self._idempotent, settings.sse_comment_s, plan.fingerprint)

    def http_app(self) -> ASGIApp:
        """Return the HTTP application."""
        settings = self._plan.settings
        routes = Routes(loopback_only=lambda: self._tenants.is_open)
        for part in self._http_parts():
            part.add_to(routes)
        return CountedRequests(
            for_origins(routes, settings),
            routes.endpoint,
            self.metrics,
            self._tracing,
            fixed_headers(settings),
            functools.partial(may_call, self._tenants),
            lambda: self.slots.is_leaving,
        )

    def grpc_server(self) -> GatewayGrpcServer | None:
        """Return the gRPC server, None if the settings ask for none."""
        settings = self._plan.settings
        if settings.grpc_port is None:
            return None
        return GatewayGrpcServer(settings, self.grpc_edge(), self._bodies.max_bytes)

    def grpc_edge(self) -> GrpcEdge:
        """Return what answers gRPC calls."""
        settings = self._plan.settings
        methods = {name: method for part in self._grpc_parts() for name, method in part.methods().items()}
        return GrpcEdge(
            methods,
            self._tenants,
            self.slots,
            self.metrics,
            self._tracing,
            self._bodies.budget,
            message_timeout_s=settings.body_timeout_s,
            stall_timeout_s=settings.stall_timeout_s,
        )

    def _grpc_parts(self) -> list[GrpcPart]:
        settings, max_bytes = self._plan.settings, self._bodies.max_bytes
        repeated = RepeatedCalls(self._idempotent)
        reflects = not settings.is_public if settings.grpc_reflection is None else settings.grpc_reflection
        return [
            InferenceMethods(self._chats, self._completions, repeated, max_bytes, self._plan.fingerprint),
            IntrinsicMethods(self._intrinsics, repeated, max_bytes),
            AdapterMethods(self._managed.manager, self._adapter_access()),
            HealthMethods(service_names(), lambda: not self.slots.is_leaving and self._serves()),
            *([ReflectionMethods()] if reflects else []),
        ]

    def _http_parts(self) -> list[HttpPart]:
        base_model, manager = self._plan.served_name, self._managed.manager
        return [
            self._openai_routes(),
            ResponseRoutes(self._tenants, self._chats, self._bodies, self.slots, self._responses),
            IntrinsicRoutes(self._tenants, self._intrinsics, self._bodies, self.slots, self._idempotent),
            self._admin_routes(),
            TenantRoutes(self._fleet_tenants.manager, self._tenants, self._bodies),
            self._prefix_routes(),
            AdapterRoutes(manager, self._adapter_access(), self._bodies),
            LoraRoutes(manager, self._tenants, self._bodies, base_model=base_model),
            DocsRoutes(),
            TokenizeRoutes(
                self._tenants,
                self._prompts,
                self._bodies,
                self.slots,
                base_model=base_model,
                max_model_len=self._plan.settings.max_model_len,
            ),
            UsageRoutes(self._tenants, self._usage),
        ]

    def _prefix_routes(self) -> PrefixRoutes:
        return PrefixRoutes(
            self._prefixes,
            self._tenants,
            self._prompts,
            self._bodies,
            base_model=self._plan.served_name,
            block_tokens=self._plan.keyspace.block_tokens,
        )

    def _adapter_access(self) -> AdapterAccess:
        settings = self._plan.settings
        return AdapterAccess(
            self._tenants,
            self._managed.manager,
            settings.tenant_adapter_policy,
            quota=settings.max_tenant_adapters,
        )

    def _openai_routes(self) -> OpenAIRoutes:
        return OpenAIRoutes(
            self._tenants,
            self._chats,
            self._completions,
            self._bodies,
            self.slots,
            self._responses,
            base_model=self._plan.served_name,
            dtype=self._plan.dtype,
            adapters=self._adapters,
            serves=self._serves,
        )

    def _admin_routes(self) -> AdminRoutes:
        ask_all = self._ask_all(self._plan.settings.most_gateways)
        return AdminRoutes(
            self._plan,
            self._tenants,
            self._directories,
            self._adapters,
            replicas=self._replicas,
            receipts=FleetReceipts(self.own_receipt, self.own_receipts, ask_all),
            scaling=ScalingReporter(self._plan.settings, self._board),
            diagnosis=FleetDiagnosis(self.own_diagnosis, ask_all),
            savings=self._savings,
            targets=self._process.targets,
        )

    def _observers(self) -> list[CallObserver]:
        """Return what learns of every call, in the order in which it does."""
        return [
            ReuseObserver(self._plan.keyspace, self._diagnosis),
            self._watch,
            ReceiptWriter(self._receipts),
            CallMetrics(self.metrics),
            CallSpans(self._tracing),
            self._savings,
            *([self._demand] if self._plan.settings.autoscaling else []),
        ]

    def _open_directories(self) -> list[Directory]:
        calls = self.metrics.directory
        open_directory = functools.partial(
            self._plan.open_directory,
            on_unreadable=calls.unreadable.inc,
            application=fleet_application(self._app_name),
        )
        return [guarded(ObservedDirectory(open_directory(cell), calls)) for cell in range(self._plan.settings.cells)]

    def _open_savings(self) -> SavingsReporter:
        return SavingsReporter(
            self._plan.open_ledger(),
            self._plan.served_name,
            self._adapters,
            hour_price=self._plan.settings.accelerator_hour_price,
            on_failure=self.metrics.ledger_failures.inc,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Do what a gateway does beside answering: reach its replicas, show metrics, flush sums, follow changes."""
        await self._tenants.begin()
        await self._prefixes.begin()
        async with contextlib.AsyncExitStack() as beside:
            for part in (self._pool, self._process, self._usage, self._managed):
                await beside.enter_async_context(part.running())
            if self._plan.settings.autoscaling:
                await beside.enter_async_context(DemandReports(self._demand, self._board).running())
            beside.push_async_callback(self._limits.close)
            await beside.enter_async_context(self._savings.flushing())
            followers = [asyncio.create_task(kept(follow)) for follow in self._followers()]
            try:
                yield
            finally:
                for task in followers:
                    task.cancel()
                await asyncio.wait(followers)
                await self._tenants.close()
                await self._prefixes.close()

    def _followers(self) -> list[Work]:
        """Return what runs as long as the gateway does."""
        follow_spaces = functools.partial(follow_key_spaces, self._directories, self._plan.keyspace)
        settle, renew = self._limits.keep_settling, self._limits.keep_renewing
        followers: list[Work] = [follow_spaces, self._tenants.run, self._prefixes.run, settle, renew]
        if len(self._directories) > 1:
            followers.append(self._routing.cells.follow)
        return followers

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

    async def own_answer(self, name: str) -> dict[str, Any] | None:
        """Return what this gateway knows of an idempotency key; other gateways call this."""
        return self._idempotent.own(name)

    async def own_diagnosis(self, window_s: int) -> dict[str, Any]:
        """Return what became of reuse in this gateway's calls of the last seconds; other gateways call this."""
        return self._diagnosis.totals(window_s, time.time())

    async def own_receipts(self, limit: int) -> list[dict[str, Any]]:
        """Return this gateway's last receipts, the newest first; other gateways call this."""
        return [receipt.as_dict() for receipt in self._receipts.latest(limit)]

    def _ask_all(self, gateways: int) -> AskAll | None:
        return ask_gateways(GATEWAY, self._app_name) if gateways > 1 else None

    def _serves(self) -> bool:
        """Whether a new call would reach a replica, or be held until there is one."""
        return self._plan.settings.scales_to_zero or bool(self._replicas())

    def _replicas(self) -> tuple[str, ...]:
        return known_replicas(ENGINE, self._app_name)
