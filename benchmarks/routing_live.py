"""``make bench-routing-live``: routing policies on simulated engines behind the real gateway, over HTTP.

The gateway's own latency of a call is the client's TTFT less the model's: what HTTP, Serve, rendering, deciding and
claiming took, on this machine with everything else that runs on it. It is measured for each call of the run (the
engines know their calls' own times) and, for comparison, on an idle fleet before it.

On a machine with too few cores for the gateway the calls queue in front of it, and what is measured is not the router.
A slowdown stretches engines, starts and pauses alike, so that the same calls meet the same engines and the gateway has
more time for each; times are then given in the model's seconds, the gateway's latency in real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from aloraserve.settings import Settings
from aloraserve_services.cli.console import Steps, out
from aloraserve_services.cli.options import ChosenSettings, JsonFile, takes_settings
from aloraserve_services.local.platform import LocalPlatform
from benchmarks.conversation_player import ConversationPlayer
from benchmarks.conversations import conversations, hit_bound
from benchmarks.harness.calibrations import slowed_file
from benchmarks.harness.client import AsyncStreamingClient
from benchmarks.harness.command import run_command
from benchmarks.harness.fleet_probe import cpu_s, served_ttft_s
from benchmarks.harness.report import write_json
from benchmarks.harness.stats import percentile
from benchmarks.routing_result import RoutingBenchResult, show_results

LOOKUP_BUDGET_MS = 200.0
"""Client, engines, Redis and gateway share a few cores: how long a lookup waits for one is not the router's doing."""
RATES_PER_S = (3.0, 6.0)


@takes_settings("replicas", "calibration", "block_tokens", "model", "port", "state_dir", replicas=6, block_tokens=16)
def bench_routing_live(
    chosen: ChosenSettings,
    policy: Annotated[list[str] | None, typer.Option(help="Repeat it to compare; default: expected-ttft.")] = None,
    rate: Annotated[list[float] | None, typer.Option(help="New conversations per second; default: 3 and 6.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the conversations.")] = 0,
    slowdown: Annotated[float, typer.Option(min=1, max=20, help="Stretch engines and workload, not the gateway.")] = 1,
    session_header: Annotated[bool, typer.Option(help="Send each conversation's id as x-session-id.")] = False,
    json: JsonFile = None,
) -> None:
    """Compare policies on simulated engines behind the real gateway, a platform for each policy and rate."""
    from aloraserve_services.cli.own_platform import own_settings

    settings = own_settings(chosen, json, engine="simulated", lookup_budget_ms=LOOKUP_BUDGET_MS)
    results: list[RoutingBenchResult] = []
    for name in policy or [settings.policy]:
        for rate_per_s in rate or RATES_PER_S:
            played = Settings(**settings.model_dump() | {"policy": name})
            results.append(_play(played, RoutingLoad(rate_per_s, seed, session_header, slowdown)))
            show_results(out, results)
    write_json(json, {"seed": seed, "runs": [asdict(result) for result in results]})


@dataclass(frozen=True, slots=True)
class RoutingLoad:
    """Workload that a platform is played.

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


def _play(settings: Settings, load: RoutingLoad) -> RoutingBenchResult:
    from aloraserve_services.cli.own_platform import own_platform

    steps = Steps()
    with contextlib.ExitStack() as stack:
        times = stack.enter_context(slowed_file(settings.calibration, load.slowdown))
        slowed_settings = settings.model_copy(update={"calibration": str(times)})
        platform = stack.enter_context(own_platform(slowed_settings, steps))
        steps(f"playing {load.rate_per_s:g} new conversations per second with {settings.policy}")
        return run_load(platform, load)


def run_load(platform: LocalPlatform, load: RoutingLoad) -> RoutingBenchResult:
    """Play conversations on a platform that nothing has used yet, in the process that started it.

    Args:
        platform: its calibration is slowed already.
        load: what to play.
    """
    client = AsyncStreamingClient(platform.url, platform.headers)
    player = ConversationPlayer(platform.plan, client, with_session=load.with_session, slowdown=load.slowdown)
    idle = asyncio.run(player.idle(load.seed))
    before, started = cpu_s(), time.perf_counter()
    made = conversations(load.rate_per_s, load.seed)
    asyncio.run(player.play(made))
    result = RoutingBenchResult(platform.settings.policy, load.rate_per_s, slowdown=load.slowdown)
    result.seconds = time.perf_counter() - started
    result.cpu_s = {part: round(after - before.get(part, 0.0), 2) for part, after in cpu_s().items()}
    result.failed, result.errors = len(player.errors), player.errors[:5]
    result.hit_bound = hit_bound(made, platform.plan.keyspace.block_tokens)
    served = served_ttft_s()
    result.gateway_idle_p50_s = percentile([answer.ttft_s - served[call] for call, answer in idle.items()], 0.5)
    if player.answers:
        result.sum_up(player.answers, player.kinds, served)
    return result


if __name__ == "__main__":
    run_command(bench_routing_live)
