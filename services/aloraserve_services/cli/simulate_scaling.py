"""``aloraserve simulate --scaler``: autoscalers compared on a modelled fleet that grows and shrinks."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from aloraserve.errors import SettingsError
from aloraserve.scaling.base import ScalingRules
from aloraserve.simulation.load_shapes import SHAPES, reshaped_rows, shaped_rows
from aloraserve.simulation.scaled_fleet import Growth
from aloraserve.simulation.scaling_study import ScalerChoice, ScalingStudy, parse_scaler
from aloraserve.simulation.study import StudyProgress, StudySettings
from aloraserve.simulation.trace import TraceRow
from aloraserve.simulation.workload import Workload

DURATION_S = 480.0
"""Of generated traffic."""
PEAK_PER_S = 2.5
"""Conversations that start per second at its highest."""
HEADS = ("scaler", "setting", "violations", "replica-hours", "hits", "TTFT p50", "p99", "left", "missed tokens")


class PlayedScaler(NamedTuple):
    """A scaler and its figures (:func:`~aloraserve.simulation.scaling_study.scaling_figures`), for each seed."""

    choice: ScalerChoice
    runs: list[dict[str, float]]


@dataclass(frozen=True, slots=True)
class ScalingOptions:
    """What a user asks to compare.

    Args:
        scalers: as :func:`~aloraserve.simulation.scaling_study.parse_scaler` takes them.
        rules: bounds and objectives; the rest of them is the platform's own scaler's.
        start_s: that a replica takes to start.
        shape: of the traffic; None: a trace as it is, or a day of generated traffic.
        study: trace, calls and engines.
    """

    scalers: Sequence[str]
    rules: ScalingRules
    start_s: float
    shape: str | None
    study: StudySettings

    def calls(self, seed: int) -> Workload:
        """Return the calls of a seed."""
        return Workload(self._rows(seed), replace(self.study.workload, seed=seed))

    def _rows(self, seed: int) -> list[TraceRow]:
        study = self.study
        if study.trace is None:
            rows = shaped_rows(self.shape or SHAPES[0], seed, duration_s=DURATION_S, peak_per_s=PEAK_PER_S)
            return rows[: study.requests]
        rows = study.rows(seed)
        return reshaped_rows(rows, self.shape, seed) if self.shape else rows


def refuse_with_scalers(**given: object) -> None:
    """Raise SettingsError where an option is given that autoscalers are compared without.

    Args:
        given: by name; nothing, zero or false: it is not given.
    """
    for name, value in given.items():
        if value:
            raise SettingsError(f"{name} and scaler are both given; autoscalers are compared without it")


def run_scaling(options: ScalingOptions, on_progress: Callable[[StudyProgress], None]) -> list[PlayedScaler]:
    """Play all scalers with all seeds.

    Raises:
        SettingsError: an option makes no sense.
    """
    rules, of_study = options.rules, options.study
    times = of_study.calibration.model_copy(update={"kv_tokens": of_study.fleet(0).kv_tokens_each})
    study = ScalingStudy(times, rules, Growth(initial=rules.min_replicas, start_s=options.start_s))
    played = [PlayedScaler(parse_scaler(text, rules.max_replicas), []) for text in options.scalers]
    runs = [(seed, each) for seed in of_study.seeds for each in played]
    for number, (seed, each) in enumerate(runs):
        on_progress(StudyProgress(f"seed {seed}: {each.choice.name}, {each.choice}", number / len(runs)))
        each.runs.append(study.run(each.choice, options.calls(seed))[0])
    return played


def show_scaling(
    console: Console, options: ScalingOptions, played: Sequence[PlayedScaler], output: Path | None
) -> None:
    """Print a table, and write the figures to a file if there is one."""
    console.print(_table(options, played))
    if output is not None:
        output.write_text(json.dumps(_content(options, played), indent=2), "utf-8")
        console.print(f"written to {output}")


def _table(options: ScalingOptions, played: Sequence[PlayedScaler]) -> Table:
    rules = options.rules
    origin = f"{options.shape} " if options.shape else ""
    origin += "generated trace" if options.study.trace is None else options.study.trace.name
    title = (
        f"{origin}, {played[0].runs[0]['calls']:,.0f} calls, {rules.min_replicas} to {rules.max_replicas} replicas; "
        f"objectives {rules.ttft_objective_s:g} s, then {1000 * rules.itl_objective_s:g} ms per token"
    )
    table = Table(title=title, title_justify="left", box=SIMPLE)
    for head in HEADS:
        table.add_column(head, justify="left" if head in HEADS[:2] else "right", no_wrap=True)
    for choice, figures in played:
        table.add_row(*_row(choice, figures))
    return table


def _row(choice: ScalerChoice, figures: Sequence[dict[str, float]]) -> list[str]:
    def mean(name: str) -> float:
        return statistics.fmean(run[name] for run in figures)

    return [
        choice.name,
        str(choice),
        f"{mean('violations'):.3%}",
        f"{mean('replica_hours'):.2f}",
        f"{mean('hit_rate'):.3f}",
        f"{1000 * mean('ttft_p50_s'):,.0f} ms",
        f"{1000 * mean('ttft_p99_s'):,.0f} ms",
        f"{mean('departures'):.1f}",
        f"{mean('missed_tokens') / 1000:,.0f}k",
    ]


def _content(options: ScalingOptions, played: Sequence[PlayedScaler]) -> dict[str, Any]:
    return {
        "trace": str(options.study.trace) if options.study.trace else "generated",
        "shape": options.shape,
        "rules": asdict(options.rules),
        "start_s": options.start_s,
        "seeds": list(options.study.seeds),
        "scalers": [{"name": choice.name, "setting": str(choice), "runs": figures} for choice, figures in played],
    }
