"""One run of the live comparison of routers: conversations played on something that has seen none yet."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass

from aloraserve_services.local.platform import LocalPlatform
from aloraserve_services.plan import FleetPlan
from benchmarks.conversation_player import ConversationPlayer
from benchmarks.conversations import conversations, hit_bound
from benchmarks.harness.client import AsyncStreamingClient
from benchmarks.harness.fleet_probe import served_ttft_s
from benchmarks.harness.processes import PlatformProcesses, used
from benchmarks.harness.routers import ROUTERS
from benchmarks.harness.stats import percentile
from benchmarks.routing_result import RoutingBenchResult


@dataclass(frozen=True, slots=True)
class RoutingLoad:
    """Workload that an arm is played.

    Args:
        rate_per_s: new conversations per second.
        seed: of the conversations.
        with_session: send session ids.
        slowdown: real seconds for each second of the model, at least 1.
    """

    rate_per_s: float
    seed: int = 0
    with_session: bool = False
    slowdown: float = 1.0


def play_platform(platform: LocalPlatform, load: RoutingLoad) -> RoutingBenchResult:
    """Play conversations on a platform in the process that started it; its engines know their calls' own times.

    Args:
        platform: its calibration is slowed already.
        load: what to play.
    """
    settings = platform.settings
    name = settings.policy if settings.gateways == 1 else f"{settings.policy}, {settings.gateways} gateways"
    client = AsyncStreamingClient(platform.url, platform.headers, with_usage=True)
    player = ConversationPlayer(platform.plan, client, with_session=load.with_session, slowdown=load.slowdown)
    idle = asyncio.run(player.idle(load.seed))
    result = asyncio.run(_play(player, PlatformProcesses(os.getpid()), load, name))
    served = served_ttft_s()
    result.gateway_idle_p50_s = percentile([answer.ttft_s - served[call] for call, answer in idle.items()], 0.5)
    return _summed_up(result, player, platform.plan, load, served)


async def play_router(name: str, url: str, pid: int, plan: FleetPlan, load: RoutingLoad) -> RoutingBenchResult:
    """Play conversations on a router before bare engines.

    Args:
        name: of the router, a key of :data:`~benchmarks.harness.routers.ROUTERS`.
        url: of its API.
        pid: of its process.
        plan: of the engines, with their calibration slowed already.
        load: what to play.
    """
    client = AsyncStreamingClient(url, with_usage=True)
    with_session = load.with_session or ROUTERS[name].with_session
    player = ConversationPlayer(plan, client, with_session=with_session, slowdown=load.slowdown)
    await player.idle(load.seed)
    result = await _play(player, PlatformProcesses(pid), load, name)
    result.is_own = False
    return _summed_up(result, player, plan, load, {})


async def _play(
    player: ConversationPlayer, processes: PlatformProcesses, load: RoutingLoad, name: str
) -> RoutingBenchResult:
    before, started = processes.cpu_s(), time.perf_counter()
    await player.play(conversations(load.rate_per_s, load.seed))
    result = RoutingBenchResult(name, load.rate_per_s, load.seed, slowdown=load.slowdown)
    result.seconds = time.perf_counter() - started
    result.cpu_s = {part: round(spent_s, 2) for part, spent_s in used(before, processes.cpu_s()).items()}
    return result


def _summed_up(
    result: RoutingBenchResult, player: ConversationPlayer, plan: FleetPlan, load: RoutingLoad, served: dict[str, float]
) -> RoutingBenchResult:
    made = conversations(load.rate_per_s, load.seed)
    result.failed, result.errors = len(player.errors), player.errors[:5]
    result.hit_bound = hit_bound(made, plan.keyspace.block_tokens)
    if player.answers:
        result.sum_up(player.answers, player.kinds, served)
    return result
