"""``make bench-routing-live``: this gateway and other projects' routers on the same engines and conversations.

The figure is the client's raw time to the first token: nothing is subtracted. Each arm is started for each run and
stopped after it: this platform with each policy and number of gateways, and each other router before bare engines of
the same class. The arms take turns, the seed of the conversations changes from round to round.

Of this platform the engine's own part of each call's TTFT is known too; the rest is the gateway's own latency: what
HTTP, rendering, deciding and the way to the engine took, on this machine with everything else that runs on it.

On a machine with too few cores for the gateway the calls queue in front of it, and what is measured is not the choice
of a replica. A slowdown stretches engines, starts and pauses alike, so that the same calls meet the same engines and
every router has more time for each; times are then given in the model's seconds, the gateway's latency in real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from aloraserve.settings import Settings
from aloraserve_services.cli.console import Steps, out
from aloraserve_services.cli.options import ChosenSettings, JsonFile, takes_settings
from aloraserve_services.models.hardware import describe_machine
from aloraserve_services.models.untrained import twin_adapters
from aloraserve_services.plan import make_plan
from benchmarks.harness.bare_engines import bare_engines
from benchmarks.harness.calibrations import slowed_file
from benchmarks.harness.command import run_command
from benchmarks.harness.report import figures_json, show_figures, write_json
from benchmarks.harness.routers import ROUTERS, router, routers_environment
from benchmarks.routing_result import RoutingBenchResult, show_results, verdicts
from benchmarks.routing_run import RoutingLoad, play_platform, play_router

LOOKUP_BUDGET_MS = 200.0
"""Client, engines, Redis and gateway share a few cores: how long a lookup waits for one is not the router's doing."""
RATES_PER_S = (3.0, 6.0)
ROUTERS_FOLDER = "bench-routers"
"""Subfolder of the state folder with the other routers' environment."""


@takes_settings("replicas", "calibration", "block_tokens", "model", "port", "state_dir", replicas=6, block_tokens=16)
def bench_routing_live(
    chosen: ChosenSettings,
    policy: Annotated[list[str] | None, typer.Option(help="Repeat it to compare; default: expected-ttft.")] = None,
    gateways: Annotated[list[int] | None, typer.Option(help="Repeat it to compare; default: 1.")] = None,
    rate: Annotated[list[float] | None, typer.Option(help="New conversations per second; default: 3 and 6.")] = None,
    rounds: Annotated[int, typer.Option(min=1, max=20, help="Runs of each arm and rate, each with a new seed.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the first round's conversations.")] = 0,
    slowdown: Annotated[float, typer.Option(min=1, max=20, help="Stretch engines and workload, not the gateway.")] = 1,
    session_header: Annotated[bool, typer.Option(help="Send each conversation's id as x-session-id.")] = False,
    against: Annotated[list[str] | None, typer.Option(help=f"Other routers: {', '.join(ROUTERS)}, all; none.")] = None,
    routers_venv: Annotated[Path | None, typer.Option(help="Their environment; made if it is not there.")] = None,
    json: JsonFile = None,
) -> None:
    """Compare this gateway with other routers: the client's TTFT and the share of cached tokens, run by run."""
    from aloraserve_services.cli.own_platform import own_settings

    settings = own_settings(chosen, json, engine="simulated", lookup_budget_ms=LOOKUP_BUDGET_MS)
    arms = RoutingArms(settings, policy or [settings.policy], gateways or [1], chosen_routers(against), routers_venv)
    results: list[RoutingBenchResult] = []
    for number in range(rounds):
        for rate_per_s in rate or RATES_PER_S:
            for result in arms.play(RoutingLoad(rate_per_s, seed + number, session_header, slowdown)):
                results.append(result)
                show_results(out, results)
    figures = verdicts(results)
    show_figures(out, "client's TTFT and hits beside the best of the other routers", figures)
    content = {"machine": describe_machine(), "seed": seed, "targets": figures_json(figures)}
    write_json(json, content | {"runs": [asdict(result) for result in results]})


def chosen_routers(names: list[str] | None) -> list[str]:
    """Return the other routers that the option names: all of them by default.

    Raises:
        typer.BadParameter: there is no such router.
    """
    if names == ["none"]:
        return []
    for name in names or ():
        if name not in (*ROUTERS, "all"):
            raise typer.BadParameter(f"against is {name!r}; accepted are {', '.join(ROUTERS)}, all and none")
    return list(ROUTERS) if not names or "all" in names else names


class RoutingArms:
    """Everything that conversations are played on.

    Args:
        settings: of this platform; the engines' are the same everywhere.
        policies: of this platform.
        gateways: numbers of them.
        routers: keys of :data:`~benchmarks.harness.routers.ROUTERS`.
        venv: their environment; by default one in the state folder.
    """

    def __init__(
        self, settings: Settings, policies: list[str], gateways: list[int], routers: list[str], venv: Path | None
    ) -> None:
        self._settings = settings
        self._own = [(policy, count) for policy in policies for count in gateways]
        self._routers = routers
        if routers:
            self._venv = routers_environment(venv or settings.state_dir / ROUTERS_FOLDER)

    def play(self, load: RoutingLoad) -> Iterator[RoutingBenchResult]:
        """Play the load on one arm after the other."""
        for policy, count in self._own:
            yield self._platform(policy, count, load)
        for name in self._routers:
            yield self._router(name, load)

    def _platform(self, policy: str, gateways: int, load: RoutingLoad) -> RoutingBenchResult:
        from aloraserve_services.cli.own_platform import own_platform

        steps = Steps()
        with slowed_file(self._settings.calibration, load.slowdown) as times:
            given = {"policy": policy, "gateways": gateways, "calibration": str(times)}
            with own_platform(Settings(**self._settings.model_dump() | given), steps) as platform:
                steps(f"playing {load.rate_per_s:g} new conversations per second with {policy}")
                return play_platform(platform, load)

    def _router(self, name: str, load: RoutingLoad) -> RoutingBenchResult:
        steps = Steps()
        with contextlib.ExitStack() as stack:
            times = stack.enter_context(slowed_file(self._settings.calibration, load.slowdown))
            settings = self._settings.model_copy(update={"calibration": str(times)})
            plan = make_plan(settings, adapters_dir=functools.partial(twin_adapters, settings.state_dir))
            model = ("--model", str(plan.model_path), "--served-name", plan.served_name)
            flags = (*model, "--adapters-dir", str(plan.adapters_dir))
            engine = ("--calibration", str(times), "--block-tokens", str(settings.block_tokens))
            engines = stack.enter_context(bare_engines(settings.replicas, *flags, *engine))
            url, pid = stack.enter_context(router(name, self._venv, engines.urls))
            steps(f"playing {load.rate_per_s:g} new conversations per second on {name}")
            return asyncio.run(play_router(name, url, pid, plan, load))


if __name__ == "__main__":
    run_command(bench_routing_live)
