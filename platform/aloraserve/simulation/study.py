"""A comparison: some routers on the same calls, over some seeds, in as many processes as there are cores."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aloraserve.engine_model.calibration import Calibration
from aloraserve.errors import SettingsError
from aloraserve.routing.cost_model import TPOT_OBJECTIVE_S
from aloraserve.routing.scheduling import Scheduling
from aloraserve.simulation.bounds import one_cache, rate_scale_at
from aloraserve.simulation.faults import Fault
from aloraserve.simulation.fleet import FleetSettings, ModelledFleet, check_fits
from aloraserve.simulation.modelled_engine import Loading
from aloraserve.simulation.router_names import router_factory
from aloraserve.simulation.summary import Bounds, over_seeds, summarize
from aloraserve.simulation.trace import MAX_ROWS, GeneratedTrace, TraceRow, read_trace
from aloraserve.simulation.workers import Report, Workers, no_collector
from aloraserve.simulation.workload import Workload, WorkloadSettings

GENERATED_ROWS = 2000
MAX_SEEDS = 100


@dataclass(frozen=True, slots=True)
class StudySettings:
    """The comparison to make.

    Args:
        policies: names of routers.
        calibration: of each engine.
        trace: file of base turns; None generates them.
        requests: only so many base turns; None is all, or ``GENERATED_ROWS``.
        replicas: engines.
        kv_tokens: of each, the calibration's if None.
        workload: evaluators, blocks and rate; its seed is replaced by each of ``seeds``.
        load: share of saturation that sets the rate; None leaves the rate as ``workload`` has it.
        seeds: a run of each router for each.
        faults: of every run.
        scheduling: the order in which the engines begin their calls, under every router.
        tpot_objective_s: of the platform's cost model; 0: none.
        gateways: of the platform's own router.
        loading: who loads adapters, under every router.
    """

    policies: tuple[str, ...]
    calibration: Calibration
    trace: Path | None = None
    requests: int | None = None
    replicas: int = 8
    kv_tokens: int | None = None
    workload: WorkloadSettings = field(default_factory=WorkloadSettings)
    load: float | None = None
    seeds: tuple[int, ...] = (0,)
    faults: tuple[Fault, ...] = ()
    scheduling: Scheduling = field(default_factory=Scheduling)
    tpot_objective_s: float = TPOT_OBJECTIVE_S
    gateways: int = 1
    loading: Loading = "platform"

    def __post_init__(self) -> None:
        """Raise SettingsError for a value that makes no sense."""
        if self.requests is not None and not 1 <= self.requests <= MAX_ROWS:
            raise SettingsError(f"requests is {self.requests}; 1 to {MAX_ROWS} are accepted")
        if not 1 <= len(self.seeds) <= MAX_SEEDS:
            raise SettingsError(f"{len(self.seeds)} seeds are given; 1 to {MAX_SEEDS} are accepted")
        self.fleet(0)

    def fleet(self, seed: int) -> FleetSettings:
        """Return the fleet of one run."""
        return FleetSettings(
            self.calibration,
            self.replicas,
            self.kv_tokens,
            self.faults,
            seed,
            self.scheduling,
            self.gateways,
            self.tpot_objective_s,
            self.loading,
        )

    def rows(self, seed: int) -> list[TraceRow]:
        """Return the base turns of the file, or of a generated trace of this seed."""
        if self.trace is None:
            return _generated(self.requests or GENERATED_ROWS, seed)
        return _read(self.trace, self.requests)

    def workload_of(self, seed: int, rate_scale: float) -> Workload:
        """Return the calls of one run."""
        return Workload(self.rows(seed), replace(self.workload, seed=seed, rate_scale=rate_scale))


@dataclass(frozen=True, slots=True)
class PolicyFigures:
    """One router's figures: means over seeds, half widths of their 95 % intervals, and each seed's.

    Args:
        policy: its name.
        means: by figure.
        intervals: by figure; empty with one seed.
        runs: by figure, for each seed in turn.
    """

    policy: str
    means: dict[str, float]
    intervals: dict[str, float]
    runs: list[dict[str, float]]

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON has them; what is not finite is null there."""
        return {
            "policy": self.policy,
            **_finite(self.means),
            "seeds": len(self.runs),
            "intervals": _finite(self.intervals),
            "runs": [_finite(run) for run in self.runs] if len(self.runs) > 1 else [],
        }


@dataclass(frozen=True, slots=True)
class StudyProgress:
    """How far a study is.

    Args:
        label: what was just done, or is being done.
        share: of the whole, 0 to 1.
    """

    label: str
    share: float


def run_study(
    settings: StudySettings,
    *,
    on_progress: Callable[[StudyProgress], None] = lambda progress: None,
    processes: int | None = None,
) -> list[PolicyFigures]:
    """Run every router with every seed; the result does not depend on the number of processes.

    Args:
        settings: what to compare.
        on_progress: called now and then.
        processes: at most so many; the number of cores if None.

    Raises:
        SettingsError: a setting does not fit the trace.
    """
    for seed in settings.seeds:
        check_fits(settings.workload_of(seed, 1.0), settings.fleet(seed).kv_tokens_each)
    jobs = len(settings.seeds) * len(settings.policies)
    workers = min(processes or len(os.sched_getaffinity(0)), jobs)
    total = jobs + len(settings.seeds) * 0.2
    done = 0.0

    def report(label: str, share: float = 0.0) -> None:
        on_progress(StudyProgress(label, min((done + share) / total, 1.0)))

    bounds: dict[int, Bounds] = {}
    runs: dict[tuple[str, int], dict[str, float]] = {}
    with Workers(workers) as pool:
        for (_, seed), found in pool.run(_bounds, [(settings, seed) for seed in settings.seeds], report):
            bounds[seed] = found
            done += 0.2
            report(f"bounds, seed {seed}")
        each = [(settings, name, seed, bounds[seed]) for name in settings.policies for seed in settings.seeds]
        for (_, name, seed, _), figures in pool.run(_run, each, report):
            runs[name, seed] = figures
            done += 1
            report(f"{name}, seed {seed}")
    return [_figures(name, [runs[name, seed] for seed in settings.seeds]) for name in settings.policies]


def _figures(name: str, runs: list[dict[str, float]]) -> PolicyFigures:
    means, intervals = over_seeds(runs)
    return PolicyFigures(name, means, intervals, runs)


def _bounds(job: tuple[StudySettings, int], report: Report) -> Bounds:
    settings, seed = job
    report(f"bounds, seed {seed}", 0.0)
    return find_bounds(settings.fleet(seed), settings.workload_of(seed, 1.0))


def find_bounds(fleet: FleetSettings, workload: Workload) -> Bounds:
    """Return what one infinite cache, and one of the fleet's size, would have of a workload."""
    pooled = one_cache(workload, fleet.calibration, fleet.kv_tokens_each * fleet.replicas)
    # A cache that never had too little room did what an infinite one does.
    oracle = one_cache(workload, fleet.calibration, None) if pooled.evicted else pooled
    return Bounds(oracle, pooled)


def _run(job: tuple[StudySettings, str, int, Bounds], report: Report) -> dict[str, float]:
    settings, name, seed, bounds = job
    workload = settings.workload_of(seed, settings.workload.rate_scale)
    return run_router(name, settings.fleet(seed), workload, bounds, settings.load, report, f"{name}, seed {seed}")


def run_router(
    name: str,
    fleet: FleetSettings,
    workload: Workload,
    bounds: Bounds,
    load: float | None,
    report: Report,
    label: str,
) -> dict[str, float]:
    """Play a workload once and return its figures (:func:`~aloraserve.simulation.summary.summarize`).

    Args:
        name: the router's.
        fleet: to play on.
        workload: the calls.
        bounds: of this workload on this fleet.
        load: share of saturation that sets the rate; None leaves it as the workload has it.
        report: called now and then.
        label: what it is called with.
    """
    rate_scale = workload.settings.rate_scale
    if load is not None:
        unscaled = Workload(workload.rows, replace(workload.settings, rate_scale=1.0))
        rate_scale = rate_scale_at(load, bounds.pooled, unscaled, fleet.replicas)
        workload = Workload(workload.rows, replace(workload.settings, rate_scale=rate_scale))
    make = router_factory(name)
    played = ModelledFleet(fleet, workload, make, on_progress=lambda sent: report(label, sent / len(workload.rows)))
    with no_collector():
        return summarize(played.run(), bounds, rate_scale)


@functools.lru_cache(maxsize=4)
def _read(path: Path, requests: int | None) -> list[TraceRow]:
    return read_trace(path, limit=requests)


@functools.lru_cache(maxsize=4)
def _generated(count: int, seed: int) -> list[TraceRow]:
    return GeneratedTrace().rows(count, seed)


def _finite(figures: dict[str, float]) -> dict[str, float | None]:
    return {name: value if abs(value) < float("inf") else None for name, value in figures.items()}


def parse_seeds(seed: int, seeds: int) -> tuple[int, ...]:
    """Return ``seeds`` consecutive seeds from ``seed`` on.

    Raises:
        SettingsError: there are none, or too many.
    """
    if not 1 <= seeds <= MAX_SEEDS:
        raise SettingsError(f"seeds is {seeds}; 1 to {MAX_SEEDS} are accepted")
    return tuple(range(seed, seed + seeds))
