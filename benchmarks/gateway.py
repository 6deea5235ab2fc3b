"""``make bench-gateway``: what a call costs on its way to the engine and back, from outside, process by process.

A platform with simulated engines that calls need not wait for; the same engines as bare servers, asked directly; and,
if wanted, another checkout's platform and another project's router before the bare engines. All of them run at once on
this machine and take turns, so that what else the machine does meets each. Nothing is subtracted from a figure; TTFT
"added to the engine's own" is the client's TTFT less the bare engine's median.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from aloraserve_services.cli.console import Steps, out
from aloraserve_services.cli.options import ChosenSettings, JsonFile, check_result_file, takes_settings
from aloraserve_services.engine.simulated.answer_words import AnswerWords
from aloraserve_services.models.hardware import describe_machine
from benchmarks.gateway_abuse import Abuse
from benchmarks.gateway_arms import BASELINE, THIS, GatewayArms, Others
from benchmarks.gateway_calls import Arm, Bodies
from benchmarks.gateway_profile import Profile, write_profiles
from benchmarks.gateway_real import QUESTION, measure_real
from benchmarks.gateway_result import ArmResult, judged, show_results
from benchmarks.gateway_turns import GatewayTurns
from benchmarks.harness.command import run_command
from benchmarks.harness.report import figures_json, write_json


@takes_settings("model", "replicas", "gateways", "state_dir", replicas=2)
def bench_gateway(
    chosen: ChosenSettings,
    rounds: Annotated[int, typer.Option(min=1, max=50, help="Turns of each arm; medians count.")] = 3,
    baseline: Annotated[Path | None, typer.Option(help="Another checkout of this project, measured in turns.")] = None,
    routers_venv: Annotated[Path | None, typer.Option(help="Also sglang-router and vllm-router from there.")] = None,
    serve_llm_venv: Annotated[Path | None, typer.Option(help="Also Ray Serve LLM in that environment.")] = None,
    real: Annotated[bool, typer.Option("--real", help="Real engines, against bare `vllm serve`.")] = False,
    abuse: Annotated[bool, typer.Option(help="Also slow readers, big bodies and idle connections.")] = True,
    profile: Annotated[Path | None, typer.Option(help="Write flame graphs and a table into this folder.")] = None,
    json: JsonFile = None,
) -> None:
    """Measure what the way to the engine costs: CPU time by process, TTFT, throughput, and clients that misbehave."""
    settings = chosen.load()
    check_result_file(json)
    steps = Steps()
    arms = GatewayArms(settings, Others(baseline, routers_venv, serve_llm_venv), steps)
    bodies = Bodies(arms.model.name, AnswerWords.read(arms.model), QUESTION if real else "")
    bench = GatewayBench(bodies, steps)
    profiles: list[Profile] = []
    if real:
        with arms.real() as started:
            results = asyncio.run(measure_real(started, bench.bodies, rounds))
            show_results(out, results)
    else:
        with arms.simulated() as started:
            results = asyncio.run(bench.measure(started, rounds))
            if abuse:
                asyncio.run(bench.abuse(started, results, settings.max_model_len))
            show_results(out, results)
            profiles = bench.profile(started, results, profile) if profile else []
    content = {"machine": describe_machine(), "rounds": rounds, "targets": figures_json(judged(results[0]))}
    content |= {"arms": {result.name: result.as_dict() for result in results}}
    write_json(json, content | {"profiles": [found.as_dict() for found in profiles]})


class GatewayBench:
    """What is done to the arms.

    Args:
        bodies: to send.
        steps: progress.

    Attributes:
        bodies: likewise.
    """

    def __init__(self, bodies: Bodies, steps: Steps) -> None:
        self.bodies = bodies
        self._steps = steps

    async def measure(self, arms: list[Arm], rounds: int) -> list[ArmResult]:
        """Return what the turns of all arms showed."""
        turns = GatewayTurns(arms, self.bodies)
        for number in range(rounds):
            self._steps(f"round {number + 1} of {rounds}")
            await turns.round()
        self._steps("one call at a time")
        await turns.ttft()
        await turns.idle()
        return turns.results

    async def abuse(self, arms: list[Arm], results: list[ArmResult], max_model_len: int) -> None:
        """Have clients misbehave towards the platforms, and add what that did to others."""
        for arm, result in zip(arms, results, strict=True):
            if arm.name in (THIS, BASELINE):
                self._steps(f"{arm.name}: clients that misbehave")
                await Abuse(arm, self.bodies, result, max_model_len).run()

    def profile(self, arms: list[Arm], results: list[ArmResult], folder: Path) -> list[Profile]:
        """Write flame graphs of the platforms under load into a folder."""
        return [
            found
            for arm, result in zip(arms, results, strict=True)
            if arm.name in (THIS, BASELINE)
            for found in write_profiles(arm, result, self.bodies, folder, self._steps)
        ]


if __name__ == "__main__":
    run_command(bench_gateway)
