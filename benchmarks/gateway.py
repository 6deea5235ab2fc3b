"""``make bench-gateway``: what a call costs on its way to the engine and back, from outside, process by process.

A platform with simulated engines that calls need not wait for; the same engines as bare servers, asked directly; and,
if wanted, another checkout's platform and another project's router before the bare engines. All of them run at once on
this machine and take turns, so that what else the machine does meets each. Nothing is subtracted from a figure; TTFT
"added to the engine's own" is the client's TTFT less the bare engine's median.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from aloraserve.engine_model.calibration import load
from aloraserve.settings import Settings
from aloraserve_services.cli.console import Steps, out
from aloraserve_services.cli.options import ChosenSettings, JsonFile, check_result_file, takes_settings
from aloraserve_services.engine.simulated.answer_words import AnswerWords
from aloraserve_services.models.hardware import describe_machine
from aloraserve_services.models.model_files import resolve_model
from aloraserve_services.models.untrained import demo_adapters
from benchmarks.gateway_abuse import Abuse
from benchmarks.gateway_calls import Arm, Bodies
from benchmarks.gateway_profile import Profile, write_profiles
from benchmarks.gateway_result import ArmResult, judged, show_results
from benchmarks.gateway_turns import GatewayTurns
from benchmarks.harness.bare_engines import bare_engines
from benchmarks.harness.calibrations import calibration_file, instant
from benchmarks.harness.command import run_command
from benchmarks.harness.detached_platform import detached_platform
from benchmarks.harness.processes import PlatformProcesses
from benchmarks.harness.report import figures_json, write_json
from benchmarks.harness.routers import ROUTERS, router

TOKEN_S = 0.001
THIS, BASELINE, BARE = "this", "baseline", "bare engines"


@takes_settings("model", "replicas", "gateways", "state_dir", replicas=2)
def bench_gateway(
    chosen: ChosenSettings,
    rounds: Annotated[int, typer.Option(min=1, max=50, help="Turns of each arm; medians count.")] = 3,
    baseline: Annotated[Path | None, typer.Option(help="Another checkout of this project, measured in turns.")] = None,
    routers_venv: Annotated[Path | None, typer.Option(help="Also sglang-router and vllm-router from there.")] = None,
    abuse: Annotated[bool, typer.Option(help="Also slow readers, big bodies and idle connections.")] = True,
    profile: Annotated[Path | None, typer.Option(help="Write flame graphs and a table into this folder.")] = None,
    json: JsonFile = None,
) -> None:
    """Measure what the way to the engine costs: CPU time by process, TTFT, throughput, and clients that misbehave."""
    settings = chosen.load(engine="simulated")
    check_result_file(json)
    with GatewayBench(settings, Steps()).arms(baseline, routers_venv) as (bench, arms):
        results = asyncio.run(bench.measure(arms, rounds))
        if abuse:
            asyncio.run(bench.abuse(arms, results))
        show_results(out, results)
        profiles = bench.profile(arms, results, profile) if profile else []
    content = {"machine": describe_machine(), "rounds": rounds, "targets": figures_json(judged(results[0]))}
    content |= {"arms": {result.name: result.as_dict() for result in results}}
    write_json(json, content | {"profiles": [found.as_dict() for found in profiles]})


class GatewayBench:
    """The arms, and what is done to each.

    Args:
        settings: of the platform.
        steps: progress.
    """

    def __init__(self, settings: Settings, steps: Steps) -> None:
        _, self._model = resolve_model(settings.model, settings.state_dir, "float32", progress=steps)
        self._adapters = demo_adapters(settings.state_dir, self._model)
        self._settings = settings
        self._steps = steps
        self._bodies = Bodies(self._model.name, AnswerWords.read(self._model))

    @contextlib.contextmanager
    def arms(self, baseline: Path | None, routers_venv: Path | None) -> Iterator[tuple[GatewayBench, list[Arm]]]:
        """Run all arms for the time of the context: this platform first, the bare engines last."""
        with contextlib.ExitStack() as stack:
            times = stack.enter_context(calibration_file(instant(load("live-peers"), token_s=TOKEN_S)))
            flags = ("--model", str(self._model), "--adapters-dir", str(self._adapters), "--calibration", str(times))
            bare = tuple(stack.enter_context(bare_engines(self._settings.replicas, *flags)))
            self._steps(f"{len(bare)} bare engines answer")
            found = [stack.enter_context(self._platform(THIS, None, *flags))]
            if baseline is not None:
                found.append(stack.enter_context(self._platform(BASELINE, baseline, *flags)))
            for name in ROUTERS if routers_venv else ():
                assert routers_venv is not None
                url, pid = stack.enter_context(router(name, routers_venv, bare))
                found.append(Arm(name, (url,), PlatformProcesses(pid)))
                self._steps(f"{name} answers")
            yield self, [*found, Arm(BARE, bare)]

    async def measure(self, arms: list[Arm], rounds: int) -> list[ArmResult]:
        """Return what the turns of all arms showed."""
        turns = GatewayTurns(arms, self._bodies)
        for number in range(rounds):
            self._steps(f"round {number + 1} of {rounds}")
            await turns.round()
        self._steps("one call at a time")
        await turns.ttft()
        await turns.idle()
        return turns.results

    async def abuse(self, arms: list[Arm], results: list[ArmResult]) -> None:
        """Have clients misbehave towards the platforms, and add what that did to others."""
        for arm, result in zip(arms, results, strict=True):
            if arm.name in (THIS, BASELINE):
                self._steps(f"{arm.name}: clients that misbehave")
                await Abuse(arm, self._bodies, result, self._settings.max_model_len).run()

    def profile(self, arms: list[Arm], results: list[ArmResult], folder: Path) -> list[Profile]:
        """Write flame graphs of the platforms under load into a folder."""
        return [
            found
            for arm, result in zip(arms, results, strict=True)
            if arm.name in (THIS, BASELINE)
            for found in write_profiles(arm, result, self._bodies, folder, self._steps)
        ]

    @contextlib.contextmanager
    def _platform(self, name: str, checkout: Path | None, *flags: str) -> Iterator[Arm]:
        counts = ("--replicas", str(self._settings.replicas), "--gateways", str(self._settings.gateways))
        with (
            tempfile.TemporaryDirectory(prefix="alora-bench-") as folder,
            detached_platform(
                *("--engine", "simulated"), *counts, *flags, state_dir=Path(folder), checkout=checkout
            ) as running,
        ):
            self._steps(f"{name} is ready at {running.url}")
            yield Arm(name, (running.url,), PlatformProcesses(running.pid))


if __name__ == "__main__":
    run_command(bench_gateway)
