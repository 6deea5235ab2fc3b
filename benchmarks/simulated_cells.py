"""Cells of a comparison of simulated routers: one router on one window of a trace, each in a file once it is done."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from aloraserve.engine_model.calibration import Calibration
from aloraserve.errors import SettingsError
from aloraserve.routing.scheduling import Scheduling, SchedulingPolicy
from aloraserve.simulation.bounds import Bound
from aloraserve.simulation.fleet import FleetSettings, check_fits
from aloraserve.simulation.study import StudyProgress, find_bounds, run_router
from aloraserve.simulation.summary import Bounds
from aloraserve.simulation.trace import TraceRow
from aloraserve.simulation.workers import Report, Workers
from aloraserve.simulation.workload import Workload, WorkloadSettings

BOUNDS_SHARE = 0.3
"""Of a cell's time, what finding the bounds of a window takes."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One router on one window.

    Args:
        replicas: of the fleet.
        scheduling: the order in which every engine begins its calls.
        load: share of saturation.
        window: its number, also the seed of adapters, keys and lots.
        router: its name.
    """

    replicas: int
    scheduling: SchedulingPolicy
    load: float
    window: int
    router: str

    @property
    def name(self) -> str:
        """Its file's name, without the ending."""
        return f"{self.replicas}x{self.load:g}-{self.scheduling}-w{self.window}-{self.router.replace(':', '.')}"


@dataclass(frozen=True, slots=True)
class Window:
    """Disjoint part of a trace, and the fleet that plays it.

    Args:
        number: from 0.
        rows: base turns; the first comes at 0 s.
        calibration: of each engine.
    """

    number: int
    rows: tuple[TraceRow, ...]
    calibration: Calibration

    def fleet(self, replicas: int, scheduling: SchedulingPolicy) -> FleetSettings:
        """Return the fleet of a cell."""
        return FleetSettings(self.calibration, replicas, seed=self.number, scheduling=Scheduling(scheduling))

    @property
    def workload(self) -> Workload:
        """The calls, as fast as in the trace."""
        return Workload(self.rows, WorkloadSettings(seed=self.number))


def windows_of(
    rows: Sequence[TraceRow], count: int, calibration: Calibration, *, turns: int | None = None
) -> list[Window]:
    """Cut a trace into windows of equally many base turns.

    Args:
        rows: of the trace, sorted by time.
        count: of windows.
        calibration: of each engine.
        turns: only the first so many of each window.

    Raises:
        SettingsError: the trace is too short, or a call is too long for the engine.
    """
    size = len(rows) // count
    if size < 2:
        raise SettingsError(f"the trace has {len(rows)} turns; {count} windows need at least {2 * count}")
    windows = []
    for number in range(count):
        part = rows[number * size : number * size + min(turns or size, size)]
        moved = tuple(replace(row, arrival_s=row.arrival_s - part[0].arrival_s) for row in part)
        windows.append(Window(number, moved, calibration))
        check_fits(windows[-1].workload, calibration.kv_tokens)
    return windows


class CellStore:
    """Results of cells in a folder, one file each: what is there is not run again.

    Args:
        folder: for all traces.
        windows: of the trace; another trace, another calibration or another cut has files of its own.
    """

    def __init__(self, folder: Path, windows: Sequence[Window]) -> None:
        content = repr([(window.rows, window.calibration) for window in windows]).encode()
        self.folder = folder / hashlib.blake2b(content, digest_size=4).hexdigest()
        self.folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str) -> dict[str, Any] | None:
        """Return a result that is there."""
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text("utf-8")) if path.exists() else None

    def put(self, name: str, result: dict[str, Any]) -> None:
        """Keep a result; an interruption leaves no half of it."""
        path = self.folder / f"{name}.json"
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
        unfinished.replace(path)

    def drop(self, routers: Sequence[str]) -> None:
        """Have the cells of these routers run again."""
        for router in routers:
            for path in self.folder.glob(f"*-w*-{router.replace(':', '.')}.json"):
                path.unlink()


def run_cells(
    cells: Sequence[Cell],
    windows: Sequence[Window],
    store: CellStore,
    *,
    processes: int = 1,
    on_progress: Callable[[StudyProgress], None] = lambda progress: None,
) -> dict[Cell, dict[str, float]]:
    """Return each cell's figures; those that are not there are run, the first first.

    Args:
        cells: what to run.
        windows: by number.
        store: where results are kept.
        processes: at most so many.
        on_progress: called now and then.
    """
    sizes = sorted({(cell.replicas, cell.window) for cell in cells if store.get(cell.name) is None})
    open_bounds = [size for size in sizes if store.get(_bounds_name(*size)) is None]
    to_run = [cell for cell in cells if store.get(cell.name) is None]
    total = max(len(open_bounds) * BOUNDS_SHARE + len(to_run), 1e-9)
    done = 0.0

    def report(label: str, share: float = 0.0) -> None:
        on_progress(StudyProgress(label, min((done + share) / total, 1.0)))

    with Workers(processes) as workers:
        jobs = [(replicas, windows[number]) for replicas, number in open_bounds]
        for (replicas, window), bounds in workers.run(_bounds, jobs, report):
            store.put(_bounds_name(replicas, window.number), asdict(bounds))
            done += BOUNDS_SHARE
            report(f"bounds, window {window.number}")
        plays = [(cell, windows[cell.window], _kept_bounds(store, cell)) for cell in to_run]
        for (cell, _, _), figures in workers.run(_play, plays, report):
            store.put(cell.name, figures)
            done += 1
            report(cell.name)
    return dict(_kept(cells, store))


def _kept(cells: Sequence[Cell], store: CellStore) -> Iterator[tuple[Cell, dict[str, float]]]:
    for cell in cells:
        figures = store.get(cell.name)
        if figures is not None:
            yield cell, figures


def _bounds_name(replicas: int, window: int) -> str:
    return f"bounds-{replicas}-w{window}"


def _kept_bounds(store: CellStore, cell: Cell) -> Bounds:
    kept = store.get(_bounds_name(cell.replicas, cell.window))
    if kept is None:
        raise SettingsError(f"{store.folder} has lost its bounds of window {cell.window}; start again")
    return Bounds(Bound(**kept["oracle"]), Bound(**kept["pooled"]))


def _bounds(job: tuple[int, Window], report: Report) -> Bounds:
    replicas, window = job
    report(f"bounds, window {window.number}", 0.0)
    return find_bounds(window.fleet(replicas, "fcfs"), window.workload)


def _play(job: tuple[Cell, Window, Bounds], report: Report) -> dict[str, float]:
    cell, window, bounds = job
    fleet = window.fleet(cell.replicas, cell.scheduling)
    return run_router(cell.router, fleet, window.workload, bounds, cell.load, report, cell.name)
