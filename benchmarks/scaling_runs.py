"""Autoscalers played on traffic: every setting with the first seed, the best of each with the others."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aloraserve.errors import SettingsError
from aloraserve.simulation.load_shapes import reshaped_rows, shaped_rows
from aloraserve.simulation.scaling_study import ALL, HPA, KEDA, OURS, SERVE, ScalerChoice, ScalingStudy
from aloraserve.simulation.study import StudyProgress
from aloraserve.simulation.trace import TraceRow, read_trace
from aloraserve.simulation.workers import Report, Workers
from aloraserve.simulation.workload import Workload, WorkloadSettings

MOST_VIOLATIONS = 0.01
"""Of the cheapest setting that still does."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Calls that all scalers play.

    Args:
        label: for people.
        shape: of generated traffic, or that a trace's turns are given; empty: a trace as it is.
        seed: of everything that is drawn.
        duration_s: of generated traffic.
        peak_per_s: conversations that start per second at its highest.
        trace: a file in Mooncake's format.
        requests: only so many of its turns.
        rate_scale: how much faster than in it they come.
        skipped: turns of it before them.
    """

    label: str
    shape: str
    seed: int
    duration_s: float
    peak_per_s: float
    trace: Path | None = None
    requests: int | None = None
    rate_scale: float = 1.0
    skipped: int = 0

    def workload(self) -> Workload:
        """Return the calls: one aLoRA evaluator follows each answer."""
        settings = WorkloadSettings(evaluators=1, lora_share=0.0, seed=self.seed, rate_scale=self.rate_scale)
        return Workload(self._rows(), settings)

    def _rows(self) -> list[TraceRow]:
        if self.trace is None:
            return shaped_rows(self.shape, self.seed, duration_s=self.duration_s, peak_per_s=self.peak_per_s)
        most = None if self.requests is None else self.skipped + self.requests
        rows = read_trace(self.trace, limit=most)[self.skipped :]
        if not rows:
            raise SettingsError(f"trace {self.trace} has no turns after the first {self.skipped}")
        if self.shape:
            return reshaped_rows(rows, self.shape, self.seed)
        return [replace(row, arrival_s=row.arrival_s - rows[0].arrival_s) for row in rows]


@dataclass(frozen=True, slots=True)
class Played:
    """One scaler on one traffic.

    Args:
        traffic: its label.
        choice: the scaler.
        runs: figures by seed.
    """

    traffic: str
    choice: ScalerChoice
    runs: tuple[dict[str, float], ...]

    def mean(self, figure: str) -> float:
        """Return the mean of a figure over the seeds."""
        return statistics.fmean(run[figure] for run in self.runs)


Job = tuple[ScalingStudy, Traffic, ScalerChoice]


class Results:
    """Figures of runs, each in a file once it is over.

    Args:
        folder: of the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, job: Job) -> dict[str, float] | None:
        """Return what is there of a run."""
        path = self._path(job)
        return dict(json.loads(path.read_text("utf-8"))) if path.exists() else None

    def put(self, job: Job, figures: dict[str, float]) -> None:
        """Keep a run's figures."""
        self._path(job).write_text(json.dumps(figures), "utf-8")

    def _path(self, job: Job) -> Path:
        return self._folder / f"{hashlib.blake2b(repr(job).encode(), digest_size=8).hexdigest()}.json"


@dataclass(frozen=True, slots=True)
class Player:
    """Plays scalers on traffic.

    Args:
        study: what they share.
        workers: run it.
        results: keep it.
        on_progress: called now and then.
    """

    study: ScalingStudy
    workers: Workers
    results: Results
    on_progress: Callable[[StudyProgress], None]

    def play(self, traffics: dict[str, list[Traffic]], choices: Sequence[ScalerChoice]) -> Iterator[Played]:
        """Yield what each scaler made of each traffic: of the first seed all, of the others the best."""
        self._run_all([(self.study, each[0], choice) for each in traffics.values() for choice in choices])
        for label, seeds in traffics.items():
            first = [Played(label, choice, (self._found(seeds[0], choice),)) for choice in choices]
            shown = [played.choice for played in best(first)]
            self._run_all([(self.study, each, choice) for each in seeds[1:] for choice in shown])
            for played in first:
                others = seeds[1:] if played.choice in shown else []
                yield Played(
                    label, played.choice, (*played.runs, *(self._found(each, played.choice) for each in others))
                )

    def _found(self, traffic: Traffic, choice: ScalerChoice) -> dict[str, float]:
        return self.results.get((self.study, traffic, choice)) or {}

    def _run_all(self, jobs: Sequence[Job]) -> None:
        new = [job for job in jobs if self.results.get(job) is None]
        done = 0

        def report(label: str, share: float = 0.0) -> None:
            self.on_progress(StudyProgress(label, min((done + share) / len(new), 1.0)))

        for job, figures in self.workers.run(_run, new, report):
            self.results.put(job, figures)
            done += 1
            report(f"{job[1].label}, seed {job[1].seed}: {job[2].name}, {job[2]}")


def _run(job: Job, report: Report) -> dict[str, float]:
    study, traffic, choice = job
    workload = traffic.workload()
    label = f"{traffic.label}: {choice.name}, {choice}"
    figures, _ = study.run(choice, workload, on_progress=lambda sent: report(label, sent / len(workload.rows)))
    return figures


def best(played: Sequence[Played]) -> list[Played]:
    """Return all of ours, and of each other scaler the setting that violates least and the cheapest that still does."""
    shown = [each for each in played if each.choice.name in (OURS, ALL)]
    for name in (SERVE, HPA, KEDA):
        of_name = [each for each in played if each.choice.name == name]
        if of_name:
            least = min(of_name, key=lambda each: (each.mean("violations"), each.mean("replica_hours")))
            good = [each for each in of_name if each.mean("violations") <= MOST_VIOLATIONS]
            shown.append(least)
            shown += [each for each in sorted(good, key=_cost)[:1] if each is not least]
    return shown


def _cost(played: Played) -> float:
    return played.mean("replica_hours")
