"""``make bench-learning``: what an engine is learned to take while it is busy, against what it takes when timed alone.

One engine answers several calls at a time, prompts of all lengths with and without cached prefixes. From the steps that
it reports meanwhile its times are learned. In between, single prefills and batches of answers are timed: in turns, so
that what else the machine does slows both. A simulated engine's times are known.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.table import Table

from aloraserve.engine_model.calibration import Calibration
from aloraserve.engine_model.fitting import DecodeSample, PrefillSample
from aloraserve.engine_model.step_learner import StepLearner
from aloraserve.engine_model.step_model import StepModel
from aloraserve.engine_model.step_stats import StepStats
from aloraserve_services.cli.console import EXIT_FAILED, Steps, err, out
from aloraserve_services.cli.engine_timer import EngineTimer
from aloraserve_services.cli.options import ChosenSettings, JsonFile, PromptSeed, takes_settings
from aloraserve_services.engine.base import EngineParts
from aloraserve_services.engine.opening import open_simulated, open_vllm
from aloraserve_services.models.hardware import describe_machine
from aloraserve_services.plan import FleetPlan, make_plan
from benchmarks.harness.command import run_command
from benchmarks.harness.report import make_table, milliseconds, write_json

PREFILLS = ((0, 64), (0, 256), (0, 1024), (1024, 64))
"""Cached tokens and tokens after them that are timed alone."""
DECODES = ((1, 128), (4, 128), (8, 128))
"""Answers and the tokens of each one's context."""
ALLOWED = {"simulated": 0.10, "vllm": 0.20}
LONGEST_PROMPT, LONGEST_ANSWER = 1500, 48
CACHED_SHARE = 0.3


@takes_settings("engine", "calibration", "model", "state_dir", "dtype")
def bench_learning(
    chosen: ChosenSettings,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="How long the engine is busy.")] = 45.0,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Calls at a time.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Turns of both; medians count.")] = 10,
    seed: PromptSeed = 0,
    json: JsonFile = None,
) -> None:
    """Compare what a busy engine is learned to take with what it takes when timed alone."""
    settings = chosen.load(replicas=1)
    plan = make_plan(settings.model_copy(update={"adapters_dir": None}), progress=Steps())
    found = asyncio.run(_measure(plan, seconds, concurrency, rounds, seed))
    out.print(found.table())
    allowed = ALLOWED[settings.engine]
    write_json(json, found.content())
    if found.worst > allowed:
        err.print(f"off by {found.worst:.1%}; {allowed:.0%} is allowed", style="red")
        raise typer.Exit(EXIT_FAILED)


@dataclass(frozen=True, slots=True)
class Row:
    """One time: alone, and as it was learned."""

    what: str
    alone_s: float
    learned_s: float

    @property
    def error(self) -> float:
        """By how much it is learned too long (or too short: negative)."""
        return self.learned_s / self.alone_s - 1


@dataclass(frozen=True, slots=True)
class Learned:
    """What a busy engine was learned to take.

    Args:
        engine: which one.
        model: as learned.
        rows: beside what it takes alone, prefills first.
        steps: it was learned from.
        add_us: processor time per step that learning took, fits included.
        step_ms: a step's, the median.
    """

    engine: str
    model: StepModel
    rows: Sequence[Row]
    steps: int
    add_us: float
    step_ms: float

    def off(self, kind: str) -> float:
        """Return the median error of prefills or decoding, without its sign."""
        return statistics.median(abs(row.error) for row in self.rows if row.what.startswith(kind))

    @property
    def worst(self) -> float:
        """The larger of the two."""
        return max(self.off("prefill"), self.off("decode"))

    def table(self) -> Table:
        """Return the rows and what they come to."""
        shown = make_table(
            f"{self.engine}: times alone and as learned while busy", ("what", "alone", "learned", "error")
        )
        for row in self.rows:
            shown.add_row(row.what, milliseconds(row.alone_s), milliseconds(row.learned_s), f"{row.error:+.1%}")
        shown.add_row("prefill, median", "", "", f"{self.off('prefill'):.1%}")
        shown.add_row("decode, median", "", "", f"{self.off('decode'):.1%}")
        shown.add_row(
            f"{self.steps} steps of {self.step_ms:.1f} ms",
            "",
            f"{self.add_us:.1f} us each",
            f"{self.add_us / 10 / self.step_ms:.2f}% of a step",
        )
        return shown

    def content(self) -> dict[str, Any]:
        """Return it for JSON."""
        rows = [asdict(row) | {"error": row.error} for row in self.rows]
        return asdict(self) | {"rows": rows, "machine": describe_machine()}


async def _measure(plan: FleetPlan, seconds: float, concurrency: int, rounds: int, seed: int) -> Learned:
    parts = EngineParts(*open_simulated(plan)) if plan.calibration is not None else open_vllm(plan)
    try:
        run = _Run(plan, parts.engine, seed)
        alone = []
        for _ in range(rounds):
            alone.append(await run.alone())
            await run.busy(seconds / rounds, concurrency)
        return run.result(alone)
    finally:
        parts.events.close()
        parts.engine.shutdown()


Sample = PrefillSample | DecodeSample


class _Run:
    """One engine, timed and learned."""

    def __init__(self, plan: FleetPlan, engine: Any, seed: int) -> None:
        self._plan = plan
        self._engine = engine
        self._timer = EngineTimer(plan, engine, rounds=1, seed=seed, progress=Steps())
        self._random = random.Random(seed)  # noqa: S311
        self._learner = StepLearner()
        self._steps: list[float] = []
        self._spent_s = 0.0

    async def alone(self) -> list[Sample]:
        """Time single prefills and batches of answers, or look them up."""
        if self._plan.calibration is not None:
            return _known(self._plan.calibration)
        found: list[Sample] = [await self._timer.time_prefill(*prompt) for prompt in PREFILLS]
        return found + [await self._timer.time_decode(*batch) for batch in DECODES]

    async def busy(self, seconds: float, concurrency: int) -> None:
        """Keep the engine busy and learn from its steps."""
        self._engine.observe_steps(self._learn)
        until = time.monotonic() + seconds
        await asyncio.gather(*(self._converse(until) for _ in range(concurrency)))
        self._engine.observe_steps(lambda step: None)

    def result(self, alone: Sequence[Sequence[Sample]]) -> Learned:
        """Return what was learned beside the medians of equal samples, of which each turn has one."""
        model = self._learner.model()
        assert model is not None, "the engine was busy and reported no step"
        rows = [_row(same, model, self._engine.step_tokens) for same in zip(*alone, strict=True)]
        plan, count = self._plan, len(self._steps)
        name = f"simulated {plan.calibration.name}" if plan.calibration else f"{plan.served_name} in {plan.dtype}"
        return Learned(name, model, rows, count, self._spent_s / count * 1e6, statistics.median(self._steps) * 1e3)

    def _learn(self, step: StepStats) -> None:
        begun = time.thread_time()
        self._learner.add(step)
        self._learner.model()
        self._spent_s += time.thread_time() - begun
        self._steps.append(step.seconds)

    async def _converse(self, until: float) -> None:
        prompt: list[int] = []
        while time.monotonic() < until:
            is_new = self._random.random() >= CACHED_SHARE or len(prompt) > LONGEST_PROMPT // 2
            length = int(10 ** self._random.uniform(1.5, 3.17))
            prompt = self._timer.tokens(length) if is_new else prompt + self._timer.tokens(length // 4)
            await self._timer.stamps(prompt, self._random.randint(4, LONGEST_ANSWER), None)


def _known(times: Calibration) -> list[Sample]:
    prefill, decode = times.prefill.model, times.decode
    found: list[Sample] = [
        PrefillSample(cached, cached + new, prefill.seconds(cached, cached + new)) for cached, new in PREFILLS
    ]
    for answers, context in DECODES:
        tokens_s = answers * (decode.s_per_sequence + context * decode.s_per_context_token)
        found.append(DecodeSample(answers, answers * context, decode.fixed_s + tokens_s))
    return found


def _row(same: Sequence[Sample], model: StepModel, step_tokens: int) -> Row:
    alone_s = statistics.median(sample.seconds for sample in same)
    first = same[0]
    if isinstance(first, PrefillSample):
        learned_s = model.prefill_s(first.start, first.end, step_tokens=step_tokens)
        return Row(f"prefill {first.end - first.start} after {first.start}", alone_s, learned_s)
    step = StepStats(0.0, answers=first.sequences, context_tokens=first.context_tokens)
    each = round(first.context_tokens / first.sequences)
    return Row(f"decode {first.sequences} with {each} each", alone_s, model.seconds(step))


if __name__ == "__main__":
    run_command(bench_learning)
