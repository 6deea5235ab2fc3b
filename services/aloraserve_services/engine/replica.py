"""The Serve deployment of one engine: where a replica's parts are put together. Only this file imports Ray."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

import structlog
from prometheus_client import REGISTRY

from aloraserve.adapters.stored import check_stored
from aloraserve.directory.base import Directory
from aloraserve.routing.cells import cell_of
from aloraserve.scaling.hot_prefixes import FILLED
from aloraserve.serving.engine_messages import EngineCall, EngineReply
from aloraserve.settings import SECRETS, Settings
from aloraserve.settings.variables import forget_variables
from aloraserve.telemetry.tracing import Tracing
from aloraserve_services.autoscaler.serve_view import REQUESTS
from aloraserve_services.channel.server import ChannelServer
from aloraserve_services.engine.adapters import EngineAdapters
from aloraserve_services.engine.base import EngineParts
from aloraserve_services.engine.fleet_warmth import FleetWarmth, adapters_in_use
from aloraserve_services.engine.host import EngineHost, ReplicaIdentity, join_fleet, load_adapters
from aloraserve_services.engine.loading_rules import loading_rules
from aloraserve_services.engine.opening import open_vllm
from aloraserve_services.engine.replica_telemetry import ReplicaTelemetry
from aloraserve_services.engine.serve_peers import ServePeers
from aloraserve_services.node import fleet_application, node_ip
from aloraserve_services.plan import FleetPlan, make_plan

log = structlog.get_logger(__name__)


class EngineReplica:
    """One engine as Serve starts it, calls it, checks it and stops it.

    Args:
        settings: of the fleet, as :func:`aloraserve_services.app.build` decided them.

    Raises:
        KeySpaceMismatchError: the fleet's key space is another one.
        SettingsError: the model or the adapters are not on this machine.
        StartError: the engine does not start, or its KV events do not arrive.
    """

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Serve awaits it
        self._closing = contextlib.ExitStack()
        self._drain_s = settings.drain_s
        self._warm_up_s = settings.warm_up_s
        self._channel: ChannelServer | None = None
        try:
            await self._start(settings)
        except BaseException:
            self._closing.close()
            raise

    async def _start(self, settings: Settings) -> None:
        # What `ray start` was given in its environment does not concern the engine's own processes.
        forget_variables(SECRETS)
        tracing = Tracing()
        self._closing.callback(tracing.flush)
        # The packaged model may have to be converted first.
        plan = await asyncio.to_thread(make_plan, settings, progress=log.info)
        identity = _identity()
        telemetry = ReplicaTelemetry(settings, identity.label, node_ip, plan.open_endpoints(), REGISTRY, tracing)
        directory = telemetry.directory(self._open_directory(plan, cell_of(_rank(), settings.cells)))
        await join_fleet(directory, plan.keyspace, identity.label)
        parts = self._open_engine(plan)
        self._closing.callback(parts.events.close)
        self._closing.callback(parts.engine.shutdown)
        registry = await asyncio.to_thread(plan.open_registry)
        await registry.begin()
        adapters = EngineAdapters(parts.engine, registry, loading_rules(settings), check=check_stored)
        adapters.observe(telemetry.adapters)
        due = await adapters_in_use(directory)
        facts = await load_adapters(parts.engine, adapters, plan.max_requests, plan.scheduling, due)
        self._host = EngineHost(
            identity,
            plan.keyspace,
            directory,
            parts,
            adapters,
            facts,
            stall_s=settings.engine_stall_s,
            keeps_prompts=settings.warm_up_s > 0,
        )
        self._closing.callback(self._host.stop)
        telemetry.watch(self._host.ingest, self._host.mirror)
        most_tokens = int(FILLED * self._host.kv_tokens)
        self._fleet = FleetWarmth(identity.replica, directory, self._host.warmth, ServePeers(), most_tokens)
        await self._host.start(max_model_tokens=settings.max_model_len, before_calls=self._warm)
        # Warming up was nobody's call.
        self._host.observe(telemetry.begin_call, telemetry.stalled)
        self._host.keep(telemetry.keep_registered, registry.run)
        channel = ChannelServer(identity.replica, self._host.generate, plan.capacity, self._fleet)
        self._closing.callback(channel.close)
        self._endpoint = await channel.start(settings.channel_host, settings.channel_port, node_ip())
        self._channel = channel

    async def endpoint(self, rank: Sequence[str] = ()) -> dict[str, Any]:
        """Return where gateways connect, and what lets them in.

        Args:
            rank: which replica the call is for; the request router reads it.
        """
        return self._endpoint.as_dict()

    async def generate(self, call: EngineCall) -> AsyncIterator[EngineReply]:
        """Return the engine's replies to a call; closing the iterator aborts it."""
        return self._host.generate(call)

    def record_autoscaling_stats(self) -> dict[str, int]:
        """Return how many requests this replica has: Serve's policy asks while the directory is gone."""
        return {REQUESTS: self._host.requests}

    async def check_health(self) -> None:
        """Raise if the engine is dead or hung, or the channel has ended; Serve then replaces this replica."""
        assert self._channel is not None, "Serve checks no replica that it has ended"
        self._channel.check()
        await self._host.check_health()

    def __del__(self) -> Coroutine[Any, Any, None] | None:  # Serve awaits what it returns
        """Let running calls end, then stop the engine's processes; the lease ends by itself.

        Serve calls it at a graceful shutdown, once no call that came through its handle runs.
        """
        channel, self._channel = self._channel, None
        if channel is None:
            self._closing.close()
            return None
        return self._end(channel)

    async def _end(self, channel: ChannelServer) -> None:
        with self._closing:
            # Calls of an engine that hangs would wait for ever.
            if not self._host.is_stalled:
                works = [channel.drain(self._drain_s), *([self._fleet.leave(self._drain_s)] if self._warm_up_s else [])]
                await asyncio.gather(*works)

    async def _warm(self) -> None:
        if self._warm_up_s:
            await self._fleet.arrive(self._warm_up_s)

    def _open_directory(self, plan: FleetPlan, cell: int) -> Directory:
        return plan.open_directory(cell, application=fleet_application(_context().app_name))

    def _open_engine(self, plan: FleetPlan) -> EngineParts:
        return open_vllm(plan)


def _context() -> Any:
    """Return what Serve knows of this replica."""
    from ray import serve

    return serve.get_replica_context()


def _identity() -> ReplicaIdentity:
    """Return who this replica is, as Serve has it."""
    return ReplicaIdentity(_context().replica_id.unique_id, f"engine-{_rank()}", uuid.uuid4().hex[:12])


def _rank() -> int:
    """Return this replica's number among the fleet's; one that takes a lost one's place has its number."""
    return int(_context().rank.rank)
