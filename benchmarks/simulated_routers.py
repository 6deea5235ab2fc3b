"""``make bench-routers``: the platform's router against published ones, on the same modelled engines.

Each router plays disjoint windows of a trace. Every cell (router, window, load, fleet) is kept in a file, so a
comparison that was interrupted goes on where it stopped, and one that is asked for again costs nothing. On a core of a
2-core VM a cell of 2,400 turns takes 5 to 15 s on 8 replicas; the generated trace has 400 turns a window and
takes some minutes.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from aloraserve.engine_model.calibration import load as load_calibration
from aloraserve.errors import SettingsError
from aloraserve.routing.scheduling import SchedulingPolicy
from aloraserve.simulation.plot import draw
from aloraserve.simulation.router_names import chosen_names
from aloraserve.simulation.trace import MAX_ROWS, GeneratedTrace, TraceRow, read_trace
from aloraserve_services.cli.console import err, out
from aloraserve_services.cli.simulate import show_progress
from benchmarks.harness.command import run_command
from benchmarks.simulated_cells import Cell, CellStore, run_cells, windows_of
from benchmarks.simulated_tables import compared, markdown

REFERENCE = "expected-ttft"
ROUTERS = (
    "expected-ttft,sglang,ray-prefix-affinity,llm-d,llm-d-blind,llm-d-sticky,llm-d-sticky-blind,dynamo,dynamo-blind,"
    "aibrix,aibrix-blind,session-hash"
)
SCHEDULINGS = ("priority", "fcfs")
GENERATED_TURNS = 400
Number = TypeVar("Number", int, float)


def compare(
    trace: Annotated[Path | None, typer.Option(help="Mooncake-format JSONL; default: a generated one.")] = None,
    windows: Annotated[int, typer.Option(min=1, max=100, help="Disjoint parts of the trace.")] = 5,
    turns: Annotated[int | None, typer.Option(min=2, help="Only the first so many base turns of each.")] = None,
    routers: Annotated[str, typer.Option(help="Separated by commas.")] = ROUTERS,
    replicas: Annotated[str, typer.Option(help="Sizes of the fleet, separated by commas.")] = "8",
    loads: Annotated[str, typer.Option(help="Shares of saturation, separated by commas.")] = "0.5,0.8,0.95,1.15",
    scheduling: Annotated[str, typer.Option(help="Of all engines: priority, fcfs or both.")] = "priority",
    calibration: Annotated[str, typer.Option(help="Engine times: a file or a name.")] = "h100-llama-3.1-8b",
    redo: Annotated[str, typer.Option(help="Routers whose cells are run again, separated by commas.")] = "",
    processes: Annotated[int, typer.Option(min=1, max=256, help="Cells that run at once.")] = 1,
    folder: Annotated[Path, typer.Option(help="Where cells, tables and plots are kept.")] = Path("build/routers"),
) -> None:
    """Compare routers on windows of a trace: TTFT, hits, TPOT, intervals and paired differences."""
    times = load_calibration(calibration)
    parts = windows_of(_rows(trace, windows), windows, times, turns=turns)
    store = CellStore(folder, parts)
    store.drop(_parts(redo))
    cells = [
        Cell(size, order, load, window, router)
        for order in _orders(scheduling)
        for size in _numbers("replicas", replicas, int)
        for load in _numbers("loads", loads, float)
        for window in range(windows)
        for router in chosen_names([routers])
    ]
    started = time.monotonic()
    with show_progress(err) as on_progress:
        results = run_cells(cells, parts, store, processes=processes, on_progress=on_progress)
    comparisons = list(compared(results))
    text = markdown(comparisons, REFERENCE)
    (store.folder / "tables.md").write_text(text + "\n", "utf-8")
    (store.folder / "figures.json").write_text(
        json.dumps([asdict(cell) | dict(figures) for cell, figures in results.items()], indent=1) + "\n", "utf-8"
    )
    for comparison in comparisons:
        name = str(comparison.setup).replace(", ", "-").replace(" ", "-").replace("%", "")
        title = f"{trace.name if trace else 'generated trace'}, {windows} windows; {comparison.setup}"
        (store.folder / f"{name}.svg").write_text(draw(comparison.plotted(), title), "utf-8")
    out.print(text, markup=False, soft_wrap=True)
    out.print(
        f"{len(cells)} cells, {time.monotonic() - started:.0f} s; tables, figures and plots are in {store.folder}"
    )


def _rows(trace: Path | None, windows: int) -> list[TraceRow]:
    if trace is not None:
        return read_trace(trace)
    count = GENERATED_TURNS * windows
    if count > MAX_ROWS:
        raise SettingsError(f"windows is {windows}; at most {MAX_ROWS // GENERATED_TURNS} of a generated trace")
    return GeneratedTrace().rows(count, 0)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _orders(text: str) -> list[SchedulingPolicy]:
    found: list[SchedulingPolicy] = []
    for part in _parts(text):
        if part not in SCHEDULINGS:
            raise SettingsError(f"scheduling is {part!r}; some of {', '.join(SCHEDULINGS)} are accepted")
        found.append("fcfs" if part == "fcfs" else "priority")
    return found


def _numbers(name: str, text: str, kind: type[Number]) -> list[Number]:
    try:
        return [kind(part) for part in _parts(text)]
    except ValueError:
        raise SettingsError(f"{name} is {text!r}; numbers separated by commas are accepted") from None


if __name__ == "__main__":
    run_command(compare)
